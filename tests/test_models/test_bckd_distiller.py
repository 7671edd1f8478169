import pytest
import torch
from mmrazor.registry import MODELS

from mmbckd.functional import (
    boundary_affinity_loss,
    relation_kl,
    semantic_affinity_loss,
)
from tests.detectors import detector
from tests.segmentors import (
    batch,
    cnn_segmentor,
    dilated_segmentor,
    transformer_segmentor,
)

CONV_SEG_INPUT = dict(type='ModuleInputs', source='decode_head.conv_seg')


def build(student=None, teacher=None, cls='FrozenTeacherDistill', **distiller):
    distiller.setdefault('type', 'mmrazor.BCKDDistiller')
    return MODELS.build(
        dict(
            type=f'mmrazor.{cls}',
            architecture=student or cnn_segmentor(),
            teacher=teacher or cnn_segmentor(base_channels=16),
            distiller=distiller,
        )
    )


def boundary(**kwargs):
    return dict(student='backbone', teacher='decode_head.conv_seg', **kwargs)


def context(**kwargs):
    return dict(student=CONV_SEG_INPUT, teacher=CONV_SEG_INPUT, **kwargs)


def step(model):
    model.train()
    losses = model(*batch(), mode='loss')
    loss, log_vars = model.parse_losses(losses)
    loss.backward()
    return losses


def test_short_form_trains_the_first_layer_and_leaves_the_teacher_alone():
    model = build(boundary=boundary(), context=context())
    model.train()
    losses = model(*batch(), mode='loss')
    assert {'distill.loss_bd', 'distill.loss_cd'} <= set(losses)
    for name in ('distill.loss_bd', 'distill.loss_cd'):
        model.zero_grad()
        losses[name].backward(retain_graph=True)
        grad = model.student.backbone.stem[0].weight.grad
        assert torch.isfinite(grad).all() and grad.abs().sum() > 0, name
    assert all(p.grad is None for p in model.teacher.parameters())


def test_short_form_equals_the_formulas_on_hooked_tensors():
    """The wiring: the right tensors reach the right formula, weighted."""
    model = build(
        boundary=boundary(radius=3.0, tau=2.0, loss_weight=0.25),
        context=context(tau=0.2, loss_weight=3.0),
    )
    seen = {}

    def keep(key, what):

        def hook(module, inputs, output):
            seen[key] = inputs[0] if what == 'input' else output

        return hook

    hooked = dict(
        features=(model.student.backbone, 'output'),
        head=(model.distiller.connectors['boundary_head'], 'output'),
        logits_t=(model.teacher.decode_head.conv_seg, 'output'),
        feature_s=(model.student.decode_head.conv_seg, 'input'),
        feature_t=(model.teacher.decode_head.conv_seg, 'input'),
    )
    for key, (module, what) in hooked.items():
        module.register_forward_hook(keep(key, what))
    losses = step(model)
    expected = boundary_affinity_loss(
        model.distiller.connectors['boundary_head'](seen['features']),
        seen['logits_t'],
        radius=3.0,
        tau=2.0,
    )
    assert torch.allclose(losses['distill.loss_bd'], 0.25 * expected)
    assert seen['head'].shape == (2, 1, 16, 16)
    expected = relation_kl(seen['feature_s'], seen['feature_t'], tau=0.2)
    assert torch.allclose(losses['distill.loss_cd'], 3 * expected)


def test_boundaries_of_the_mask_need_no_head_and_no_names():
    model = build(boundary=dict(type='SemanticAffinityLoss', loss_weight=0.5))
    assert not model.distiller.connectors
    seen = []
    for network in (model.student, model.teacher):
        network.decode_head.conv_seg.register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
    losses = step(model)
    teacher, student = seen
    assert torch.allclose(
        losses['distill.loss_bd'],
        0.5 * semantic_affinity_loss(student, teacher),
    )
    assert model.student.backbone.stem[0].weight.grad.abs().sum() > 0


def test_short_and_long_form_give_the_same_losses():
    short = build(
        boundary=boundary(radius=3.0), context=context(max_tokens=64)
    )
    feature = dict(feature=CONV_SEG_INPUT)
    record = dict(recorder='feature', data_idx=0, connector='pool')
    long = build(
        type='mmrazor.ConfigurableDistiller',
        student_recorders=dict(
            stages=dict(type='ModuleOutputs', source='backbone'), **feature
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='decode_head.conv_seg'),
            **feature,
        ),
        connectors=dict(
            boundary_head=dict(
                type='HierarchicalBoundaryConnector',
                in_channels=[8, 16, 32, 64],
            ),
            pool=dict(type='ContextConnector', max_tokens=64),
        ),
        distill_losses=dict(
            loss_bd=dict(type='BoundaryAffinityLoss', radius=3.0),
            loss_cd=dict(type='ContextRelationLoss'),
        ),
        loss_forward_mappings=dict(
            loss_bd=dict(
                preds_S=dict(
                    recorder='stages',
                    from_student=True,
                    connector='boundary_head',
                ),
                preds_T=dict(recorder='logits', from_student=False),
            ),
            loss_cd=dict(
                preds_S=dict(from_student=True, **record),
                preds_T=dict(from_student=False, **record),
            ),
        ),
    )
    long.load_state_dict(short.state_dict())
    images, samples = batch()
    results = []
    for model in (short, long):
        model.train()
        torch.manual_seed(1)
        results.append(model(images, samples, mode='loss'))
    assert results[0].keys() == results[1].keys()
    for key in results[0]:
        assert torch.equal(results[0][key], results[1][key]), key


def test_other_losses_sit_beside_ours():
    logits = dict(type='ModuleOutputs', source='decode_head.conv_seg')
    model = build(
        boundary=boundary(),
        context=context(),
        student_recorders=dict(logits=logits),
        teacher_recorders=dict(logits=logits),
        distill_losses=dict(loss_cwd=dict(type='ChannelWiseDivergence')),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    )
    losses = step(model)
    assert {'distill.loss_bd', 'distill.loss_cd', 'distill.loss_cwd'} <= set(
        losses
    )


@pytest.mark.parametrize(
    'student, teacher',
    [
        (cnn_segmentor, transformer_segmentor),
        (transformer_segmentor, cnn_segmentor),
        (dilated_segmentor, transformer_segmentor),
        (cnn_segmentor, dilated_segmentor),
    ],
)
def test_families_and_strides_mix_without_adapters(student, teacher):
    model = build(student(), teacher(), boundary=boundary(), context=context())
    losses = step(model)
    for name in ('distill.loss_bd', 'distill.loss_cd'):
        assert torch.isfinite(losses[name]) and losses[name] > 0


def test_channels_are_read_before_the_optimizer_is_built():
    """The head's parameters exist at once, and the probe leaves no trace."""
    torch.manual_seed(0)
    plain = MODELS.build(cnn_segmentor())
    torch.manual_seed(0)
    model = build(student=plain, boundary=boundary())
    head = model.distiller.connectors['boundary_head']
    assert head.in_channels == [8, 16, 32, 64]
    assert any(p is head.predict.weight for p in model.parameters())
    assert plain.training
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
    assert not model.distiller.student_recorders.get_recorder(
        'boundary_student'
    ).data_buffer


def test_several_modules_form_the_hierarchy():
    names = [f'backbone.layer{i}' for i in (1, 2, 3, 4)]
    model = build(boundary=dict(student=names, teacher='decode_head.conv_seg'))
    torch.manual_seed(0)
    whole = build(boundary=boundary())
    whole.load_state_dict(model.state_dict())
    images, samples = batch()
    values = []
    for m in (model, whole):
        m.train()
        torch.manual_seed(1)
        values.append(m(images, samples, mode='loss')['distill.loss_bd'])
    assert torch.equal(*values)


def test_channels_are_those_of_the_run_that_is_recorded():
    """Of a module that runs several times, the one that is asked for."""
    for run in (0, 1, 2):
        student = dict(
            type='ModuleOutputs',
            source='bbox_head.cls_convs.0',
            record_idx=run,
        )
        short = dict(student=student, teacher='neck', source='feature')
        model = build(detector(), detector(), boundary=short)
        connector = model.distiller.connectors['boundary_head']
        assert list(connector.in_channels) == [16]
    short['student']['record_idx'] = 3  # one for each level
    with pytest.raises(ValueError, match='Set `in_channels`'):
        build(detector(), detector(), boundary=short)


def test_feature_source_takes_a_pyramid():
    model = build(
        boundary=dict(student='backbone', teacher='neck', source='feature'),
        context=dict(student='neck', teacher='neck'),
    )
    losses = step(model)
    assert torch.isfinite(losses['distill.loss_bd'])
    assert torch.isfinite(losses['distill.loss_cd'])


def test_label_source_takes_the_truth_of_the_batch():
    model = build(boundary=dict(student='backbone', source='label'))
    model.train()
    images, samples = batch()
    seen = []
    model.distiller.connectors['boundary_head'].register_forward_hook(
        lambda m, i, o: seen.append(o)
    )
    losses = model(images, samples, mode='loss')
    labels = torch.cat([s.gt_sem_seg.data for s in samples])
    expected = boundary_affinity_loss(seen[0], labels, source='label')
    assert torch.equal(losses['distill.loss_bd'], expected)


def test_records_are_let_go_after_the_step():
    model = build(boundary=boundary(), context=context())
    step(model)
    for manager in (
        model.distiller.student_recorders,
        model.distiller.teacher_recorders,
    ):
        assert all(not r.data_buffer for r in manager.recorders.values())


def test_checkpoint_round_trip_of_probed_layers():
    first = build(boundary=boundary(), context=context())
    second = build(boundary=boundary(), context=context())
    second.load_state_dict(first.state_dict(), strict=True)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_unknown_module_lists_the_nearest_names(side):
    short = {**boundary(), side: 'decode_head.conv_segg'}
    with pytest.raises(ValueError) as error:
        build(boundary=short)
    assert side in str(error.value)
    assert 'decode_head.conv_segg' in str(error.value)
    assert "'decode_head.conv_seg'" in str(error.value)


@pytest.mark.parametrize(
    'short, words',
    [
        (dict(boundary=dict(student='backbone')), ['boundary', 'teacher']),
        (dict(boundary=boundary(radios=3)), ['radios', 'radius']),
        (
            dict(boundary=dict(student='backbone', source='labels')),
            ["'labels'", "'label'"],
        ),
        (dict(boundary=boundary(source='logits')), ["'logits'", "'label'"]),
        (
            dict(boundary=dict(student='backbone', teacher='gt_sem_seg')),
            ['gt_sem_seg', "source='label'"],
        ),
        (
            dict(
                context=dict(
                    student=dict(source='decode_head.conv_seg'),
                    teacher=CONV_SEG_INPUT,
                )
            ),
            ['`type`', 'decode_head.conv_seg', 'ModuleInputs'],
        ),
        (
            dict(boundary=dict(type='SemanticAffinityLoss', source='label')),
            ['source', 'radius'],
        ),
        (
            dict(boundary=boundary(type='L1Loss')),
            ['L1Loss', 'SemanticAffinityLoss', 'distill_losses'],
        ),
        (dict(context=context(max_token=9)), ['max_token', 'max_tokens']),
        (dict(), ['boundary', 'context', 'distill_losses']),
        (
            dict(
                boundary=boundary(),
                distill_losses=dict(loss_bd=dict(type='mmrazor.L1Loss')),
            ),
            ['loss_bd', 'Rename'],
        ),
    ],
)
def test_a_wrong_short_form_says_what_is_wrong(short, words):
    with pytest.raises(ValueError) as error:
        build(**short)
    for word in words:
        assert word in str(error.value)


def test_a_module_that_does_not_run_is_named():
    student = cnn_segmentor()
    teacher = cnn_segmentor()
    for cfg in (student, teacher):
        head = dict(cfg['decode_head'])
        head.update(
            type='FCNHead',
            in_channels=16,
            in_index=0,
            num_convs=1,
            concat_input=False,
        )
        head.pop('feature_strides')
        cfg['auxiliary_head'] = head
    short = dict(
        student='auxiliary_head.conv_seg', teacher='auxiliary_head.conv_seg'
    )
    with pytest.raises(RuntimeError, match="teacher_forward='loss'"):
        step(build(student, teacher, context=short))
