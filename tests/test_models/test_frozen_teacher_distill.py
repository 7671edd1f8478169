import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

from mmbckd.engine.hooks import DataCheckHook
from tests.segmentors import (
    NUM_CLASSES,
    batch,
    cnn_segmentor,
    transformer_segmentor,
)

LOGITS = dict(logits=dict(type='ModuleOutputs', source='decode_head.conv_seg'))
CWD = dict(
    type='ConfigurableDistiller',
    student_recorders=LOGITS,
    teacher_recorders=LOGITS,
    distill_losses=dict(loss_cwd=dict(type='ChannelWiseDivergence')),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    ),
)


BCKD = dict(
    type='BCKDDistiller',
    boundary=dict(student='backbone', teacher='decode_head.conv_seg'),
)


def build(student=None, teacher=None, distiller=CWD, **kwargs):
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student or cnn_segmentor(),
            teacher=teacher or cnn_segmentor(base_channels=16),
            distiller=distiller,
            **kwargs,
        )
    )


def teacher_logits(model, images, samples):
    seen = []
    handle = model.teacher.decode_head.conv_seg.register_forward_hook(
        lambda m, i, o: seen.append(o)
    )
    model(images, samples, mode='loss')
    handle.remove()
    return seen[0]


@pytest.mark.parametrize('teacher', [cnn_segmentor, transformer_segmentor])
def test_targets_do_not_depend_on_dropout(teacher):
    """The reference is the teacher alone, in eval mode."""
    model = build(teacher=teacher(), distiller=BCKD)
    model.train()
    assert model.student.training
    assert not any(m.training for m in model.teacher.modules())
    images, samples = batch()
    first = teacher_logits(model, images, samples)
    second = teacher_logits(model, images, samples)
    assert torch.equal(first, second)
    alone = model.teacher.eval()(images, mode='tensor')
    assert torch.equal(first, alone)
    assert not first.requires_grad


def test_single_teacher_distill_has_the_noise_this_class_mends():
    """Were upstream patched, this class could go."""
    model = MODELS.build(
        dict(
            type='mmrazor.SingleTeacherDistill',
            architecture=cnn_segmentor(),
            teacher=cnn_segmentor(dropout=0.5),
            distiller=dict(CWD, _scope_='mmrazor'),
        )
    )
    model.train()
    images, samples = batch()
    assert not torch.equal(
        teacher_logits(model, images, samples),
        teacher_logits(model, images, samples),
    )


def test_teacher_computes_no_loss():
    model = build()
    model.train()

    def fail(*args, **kwargs):
        raise AssertionError('the teacher computed a loss')

    model.teacher.decode_head.loss_by_feat = fail
    losses = model(*batch(), mode='loss')
    assert not any(k.startswith('teacher') for k in losses)
    assert 'distill.loss_cwd' in losses


def test_teacher_runs_in_loss_mode_if_asked():
    model = build(teacher_forward='loss')
    model.train()
    called = []
    original = model.teacher.decode_head.loss_by_feat
    model.teacher.decode_head.loss_by_feat = lambda *a: (
        called.append(1) or original(*a)
    )
    model(*batch(), mode='loss')
    assert called


def test_what_is_recorded_is_not_overwritten_in_place():
    norms = dict(type='ModuleOutputs', source='decode_head.scale_heads.0.0.bn')
    model = build(
        distiller=dict(
            CWD,
            student_recorders=dict(logits=norms),
            teacher_recorders=dict(logits=norms),
        )
    )
    images, samples = batch()
    model.distiller.compute_distill_losses = dict
    model(images, samples, mode='loss')
    for from_student in (True, False):
        assert model.distiller.get_record('logits', from_student).min() < 0


def test_stopped_distillation_gives_the_task_loss_alone():
    """For the price of it: the teacher rests, and nothing is recorded."""
    model = build()
    model.train()
    model.distillation_stopped = True
    called = []
    model.teacher.backbone.register_forward_hook(lambda *_: called.append(1))
    losses = model(*batch(), mode='loss')
    assert losses and not any(k.startswith('distill') for k in losses)
    assert not called
    for recorder in model.distiller.student_recorders.recorders.values():
        assert not recorder.data_buffer


def test_paths_of_configs_build_the_same_models(tmp_path):
    for name, cfg in (('s', cnn_segmentor()), ('t', cnn_segmentor(16))):
        cfg.pop('_scope_')
        (tmp_path / f'{name}.py').write_text(
            f"default_scope = 'mmseg'\nmodel = {cfg!r}\n"
        )
    # The scope of the files counts, not the one they are read in.
    with DefaultScope.overwrite_default_scope('mmrazor'):
        model = build(str(tmp_path / 's.py'), str(tmp_path / 't.py'))
    assert model.student.backbone.base_channels == 8
    assert model.teacher.backbone.base_channels == 16


def test_teacher_checkpoint_is_loaded_and_stays(tmp_path):
    trained = MODELS.build(cnn_segmentor(16))
    for p in trained.parameters():
        p.data.uniform_()
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 't.pth')
    model = build(teacher_ckpt=str(tmp_path / 't.pth'))
    model.init_weights()
    for name, value in trained.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[name], value), name


def test_weights_to_begin_with_do_not_replace_the_teacher(tmp_path):
    torch.save(build().teacher.state_dict(), tmp_path / 'teacher.pth')
    model = build(teacher_ckpt=str(tmp_path / 'teacher.pth'))
    earlier = build()
    checkpoint = dict(state_dict=earlier.state_dict())

    def load(resume):
        runner = SimpleNamespace(
            model=model, work_dir='', _load_from='a.pth', _resume=resume
        )
        found = copy.deepcopy(checkpoint)
        if resume:
            found.update(optimizer={}, message_hub={})
        DataCheckHook().after_load_checkpoint(runner, found)
        return found['state_dict']

    student = earlier.architecture.state_dict(prefix='architecture.')
    own = model.teacher.state_dict(prefix='teacher.')
    theirs = earlier.teacher.state_dict(prefix='teacher.')
    for resume, teacher in ((False, own), (True, theirs)):
        found = load(resume)
        for name, value in {**student, **teacher}.items():
            assert torch.equal(found[name], value), name
    # The teacher's alone are of no use to the student.
    checkpoint = dict(state_dict=earlier.teacher.state_dict(prefix='teacher.'))
    with pytest.raises(ValueError, match='is of another model'):
        load(False)


def test_term_without_a_gradient_is_named():
    student = cnn_segmentor()
    student['backbone']['frozen_stages'] = 1
    context = dict(student='backbone.layer1', teacher='backbone.layer1')
    distiller = dict(type='BCKDDistiller', context=context)
    model = build(student, distiller=distiller).train()
    with pytest.raises(ValueError, match='loss_cd to train .*frozen_stages'):
        model(*batch(), mode='loss')
    frozen = build(student, distiller=distiller, student_trainable=False)
    assert 'distill.loss_cd' in frozen.train()(*batch(), mode='loss')


def test_missing_teacher_checkpoint_names_the_path():
    with pytest.raises(FileNotFoundError, match='teacher_ckpt.*nowhere.pth'):
        build(teacher_ckpt='work_dirs/nowhere.pth')


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda s: s.pop('backbone.stem.0.weight'), ['1 of its', 'missing']),
        (
            lambda s: s.update({'backbone.stem.0.weight': torch.zeros(3)}),
            ['size mismatch', 'backbone.stem.0.weight'],
        ),
        (
            lambda s: [
                s.update({f'architecture.{k}': s.pop(k)}) for k in list(s)
            ],
            ['_student.pth'],
        ),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path, change, words):
    state = MODELS.build(cnn_segmentor(16)).state_dict()
    change(state)
    torch.save(dict(state_dict=state), tmp_path / 't.pth')
    with pytest.raises(ValueError) as error:
        build(teacher_ckpt=str(tmp_path / 't.pth'))
    for word in words:
        assert word in str(error.value)


def test_different_class_counts_are_refused():
    with pytest.raises(
        ValueError,
        match=f'num_classes={NUM_CLASSES} .*num_classes={NUM_CLASSES + 1}',
    ):
        build(teacher=cnn_segmentor(num_classes=NUM_CLASSES + 1))


def test_trainable_teacher_is_refused():
    with pytest.raises(ValueError, match='SingleTeacherDistill'):
        build(teacher_trainable=True)


def test_preprocessing_is_that_of_the_student_alone():
    """The config's top level only fills in for a student without its own."""
    top = dict(type='SegDataPreProcessor', _scope_='mmseg', size=(32, 32))
    assert build(data_preprocessor=top).data_preprocessor.size == (64, 64)
    student = cnn_segmentor()
    student.pop('data_preprocessor')
    model = build(student, data_preprocessor=top)
    assert model.data_preprocessor.size == (32, 32)
