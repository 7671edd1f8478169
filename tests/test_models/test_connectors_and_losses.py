import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmrazor.registry import MODELS

from mmbckd.functional import relation_kl
from tests.segmentors import cnn_segmentor


def build(**cfg):
    return MODELS.build(dict(_scope_='mmrazor', **cfg))


def test_boundary_head_is_the_published_formula():
    """Recomputed step by step from its own weights."""
    head = build(
        type='HierarchicalBoundaryConnector',
        in_channels=[3, 6],
        channels=8,
        num_groups=2,
    )
    fine, coarse = torch.randn(2, 3, 12, 10), torch.randn(2, 6, 6, 5)
    embedded = []
    for layer, feature in zip(head.embeds, (fine, coarse)):
        e = F.conv2d(feature, layer.conv.weight, layer.conv.bias)
        e = F.relu(F.group_norm(e, 2, layer.gn.weight, layer.gn.bias))
        embedded.append(F.interpolate(e, size=(12, 10), mode='bilinear'))
    z = F.conv2d(
        torch.cat(embedded, 1), head.predict.weight, head.predict.bias
    )
    assert torch.allclose(head((fine, coarse)), z, atol=1e-6)


def test_boundary_head_works_at_the_finest_stride_in_any_order():
    head = build(type='HierarchicalBoundaryConnector', in_channels=[4, 4])
    maps = (torch.randn(1, 4, 4, 4), torch.randn(1, 4, 8, 8))
    assert head(maps).shape == (1, 1, 8, 8)


def test_boundary_head_takes_one_map():
    head = build(type='HierarchicalBoundaryConnector', in_channels=4)
    assert head(torch.randn(1, 4, 8, 8)).shape == (1, 1, 8, 8)


def test_boundary_head_names_the_channels_it_got():
    head = build(type='HierarchicalBoundaryConnector', in_channels=[4])
    with pytest.raises(ValueError, match=r'in_channels=\[5\]'):
        head(torch.randn(1, 5, 8, 8))


def test_boundary_head_that_was_never_told_its_channels_says_so():
    head = build(type='HierarchicalBoundaryConnector')
    with pytest.raises(ValueError, match=r'in_channels=\[5\]'):
        head(torch.randn(1, 5, 8, 8))


def test_boundary_head_refuses_channels_that_do_not_divide_into_groups():
    with pytest.raises(ValueError, match='multiple'):
        build(type='HierarchicalBoundaryConnector', channels=30)


INIT_CFG = dict(type='Constant', val=0.25, bias=0.5, layer='Conv2d')


def assert_initialized(connector):
    convolutions = [
        m for m in connector.modules() if isinstance(m, torch.nn.Conv2d)
    ]
    assert convolutions
    for conv in convolutions:
        assert torch.all(conv.weight == 0.25)
        assert conv.bias is None or torch.all(conv.bias == 0.5)


def distill(algorithm, distiller):
    return build(
        type=algorithm,
        architecture=cnn_segmentor(),
        teacher=cnn_segmentor(),
        distiller=distiller,
    )


@pytest.mark.parametrize(
    'algorithm', ['SingleTeacherDistill', 'FrozenTeacherDistill']
)
def test_init_cfg_is_applied_under_any_distiller(algorithm):
    """ConfigurableDistiller keeps its connectors in a plain ModuleDict, at
    which the runner's ``init_weights`` ends."""
    model = distill(
        algorithm,
        dict(
            type='ConfigurableDistiller',
            connectors=dict(
                head=dict(
                    type='HierarchicalBoundaryConnector',
                    in_channels=[8, 16],
                    init_cfg=INIT_CFG,
                ),
                projection=dict(
                    type='ContextConnector',
                    in_channels=8,
                    out_channels=4,
                    init_cfg=[INIT_CFG],
                ),
            ),
        ),
    )
    model.init_weights()
    for connector in model.distiller.connectors.values():
        assert_initialized(connector)


def test_init_cfg_is_applied_to_channels_read_off_the_model():
    model = distill(
        'FrozenTeacherDistill',
        dict(
            type='BCKDDistiller',
            boundary=dict(
                student='backbone',
                teacher='decode_head.conv_seg',
                init_cfg=INIT_CFG,
            ),
        ),
    )
    model.init_weights()
    assert_initialized(model.distiller.connectors['boundary_head'])


def test_init_cfg_is_applied_again_to_other_channels():
    head = build(
        type='HierarchicalBoundaryConnector', in_channels=4, init_cfg=INIT_CFG
    )
    head.set_in_channels([3, 5])
    assert_initialized(head)


@pytest.mark.parametrize(
    'size, max_tokens, expected',
    [
        ((8, 8), 64, (8, 8)),
        ((8, 8), 63, (4, 4)),
        ((9, 7), 12, (3, 3)),
        ((5, 5), 1, (1, 1)),
    ],
)
def test_pooling_stays_below_max_tokens_by_the_smallest_factor(
    size, max_tokens, expected
):
    pool = build(type='ContextConnector', max_tokens=max_tokens)
    feature = torch.randn(2, 3, *size)
    out = pool(feature)
    assert out.shape[-2:] == expected
    factor = -(-size[0] // expected[0])
    corner = feature[:, :, :factor, :factor].mean((2, 3))
    assert torch.allclose(out[:, :, 0, 0], corner, atol=1e-6)


def test_pooling_averages_only_pixels_that_exist():
    pool = build(type='ContextConnector', max_tokens=4)
    assert torch.equal(pool(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 2, 2))


def test_projection_of_context_features():
    connector = build(type='ContextConnector', in_channels=3, out_channels=7)
    assert connector(torch.randn(1, 3, 4, 4)).shape == (1, 7, 4, 4)
    with pytest.raises(ValueError, match='in_channels'):
        build(type='ContextConnector', out_channels=7)


def test_max_tokens_below_one_is_refused():
    with pytest.raises(ValueError, match='max_tokens'):
        build(type='ContextConnector', max_tokens=0)


def test_context_loss_is_the_mean_over_levels():
    loss = build(type='ContextRelationLoss', tau=0.3, loss_weight=2.0)
    student = [torch.randn(2, 4, 6, 6), torch.randn(2, 4, 3, 3)]
    teacher = [torch.randn(2, 9, 6, 6), torch.randn(2, 9, 3, 3)]
    expected = sum(
        relation_kl(s, t, tau=0.3) for s, t in zip(student, teacher)
    )
    assert torch.allclose(loss(student, teacher), expected)


def test_context_loss_refuses_pyramids_of_different_heights():
    loss = build(type='ContextRelationLoss')
    with pytest.raises(ValueError, match='gave 2 and the teacher 1'):
        loss([torch.randn(1, 2, 3, 3)] * 2, [torch.randn(1, 2, 3, 3)])


class Related(BaseModel):
    """A student of one map, which is the same in all iterations."""

    def __init__(self, loss):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.map = torch.nn.Parameter(
            torch.randn(1, 3, 4, 4, generator=generator)
        )
        self.teacher = torch.randn(1, 5, 4, 4, generator=generator)
        self.loss = loss
        self.losses = []

    def forward(self, inputs, mode):
        loss = self.loss(self.map, self.teacher)
        self.losses.append(loss.item())
        return dict(loss=loss)


def test_weight_of_the_context_grows_over_a_share_of_the_training(tmp_path):
    """In a loop of epochs, stopped after the first and resumed."""

    def train(epochs, **options):
        model = Related(
            build(
                type='ContextRelationLoss',
                tau=0.3,
                loss_weight=2.0,
                warmup=0.5,
            )
        )
        runner = Runner(
            model,
            str(tmp_path),
            train_dataloader=dict(
                dataset=[torch.zeros(1)] * 4,
                sampler=dict(type='DefaultSampler', shuffle=False),
                batch_size=1,
            ),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            experiment_name=f'warmup-{epochs}',
            **options,
        )
        if epochs == 1:
            run_epoch = runner.train_loop.run_epoch

            def one_epoch():
                run_epoch()
                runner.train_loop.stop_training = True

            runner.train_loop.run_epoch = one_epoch
        runner.train()
        return model

    first = train(1)
    second = train(2, resume=True)
    full = 2 * relation_kl(first.map, first.teacher, tau=0.3).item()
    assert first.losses == pytest.approx(
        [full * share for share in (0.25, 0.5, 0.75, 1)]
    )
    assert second.losses == pytest.approx([full] * 4)


def test_context_has_its_whole_weight_outside_of_a_training():
    MessageHub.get_instance('context outside of a training')
    loss = build(type='ContextRelationLoss', warmup=1.0)
    model = Related(loss)
    expected = relation_kl(model.map, model.teacher)
    assert torch.allclose(loss(model.map, model.teacher), expected)


@pytest.mark.parametrize('warmup', [-0.1, 1.5])
def test_warmup_beyond_the_training_is_refused(warmup):
    with pytest.raises(ValueError, match=f'from 0 to 1, but got {warmup}'):
        build(type='ContextRelationLoss', warmup=warmup)


@pytest.mark.parametrize(
    'kind',
    [
        'HierarchicalBoundaryConnector',
        'ContextConnector',
        'BoundaryAffinityLoss',
        'ContextRelationLoss',
        'BCKDDistiller',
        'FrozenTeacherDistill',
    ],
)
def test_components_are_registered_in_mmrazor(kind):
    assert MODELS.get(f'mmrazor.{kind}') is not None
