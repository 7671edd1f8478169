"""MMRazor itself under the compat layer, in this process."""

import sys
from types import SimpleNamespace

import mmrazor
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.utils import is_list_of
from mmrazor.registry import MODELS
from mmrazor.structures.quantization import backend_config

import mmbckd  # noqa: F401
import mmbckd_compat

QCONFIG = dict(
    w_observer=dict(type='mmrazor.PerChannelMinMaxObserver'),
    a_observer=dict(type='mmrazor.MovingAverageMinMaxObserver'),
    w_fake_quant=dict(type='mmrazor.FakeQuantize'),
    a_fake_quant=dict(type='mmrazor.FakeQuantize'),
    w_qscheme=dict(qdtype='qint8', bit=8, is_symmetry=True),
    a_qscheme=dict(qdtype='quint8', bit=8, is_symmetry=True),
)


def test_every_loss_distiller_and_distillation_is_registered():
    from mmrazor.models import algorithms, distillers, losses

    names = {
        *losses.__all__,
        *distillers.__all__,
        'SingleTeacherDistill',
        'SelfDistill',
        'FpnTeacherDistill',
        'DAFLDataFreeDistillation',
    }
    assert {'ChannelWiseDivergence', 'PKDLoss'} <= names
    names -= {'BaseDistiller'}  # abstract
    for name in names:
        assert any(
            hasattr(module, name)
            for module in (algorithms, distillers, losses)
        )
        assert MODELS.get(f'mmrazor.{name}') is not None, name


@pytest.mark.parametrize(
    'name, shape',
    [
        ('ChannelWiseDivergence', (2, 5, 6, 6)),
        ('PKDLoss', (2, 5, 6, 6)),
        ('KLDivergence', (4, 5)),
        ('DISTLoss', (4, 5)),
        ('CrossEntropyLoss', (4, 5)),
        ('ATLoss', (2, 5, 6, 6)),
        ('ABLoss', (2, 5, 6, 6)),
        ('FTLoss', (2, 5, 6, 6)),
        ('L1Loss', (2, 5, 6, 6)),
        ('L2Loss', (2, 5, 6, 6)),
        ('DistanceWiseRKD', (4, 5)),
        ('AngleWiseRKD', (4, 5)),
        ('MGDLoss', (2, 5, 6, 6)),
    ],
)
def test_mmrazor_losses_have_gradients(name, shape):
    torch.manual_seed(0)
    loss = MODELS.build(dict(type=f'mmrazor.{name}'))
    student = torch.randn(shape, requires_grad=True)
    value = loss(student, torch.randn(shape))
    value.sum().backward()
    assert value.isfinite().all() and value.sum() > 0
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'layouts',
    [
        (torch.channels_last, torch.contiguous_format),
        (torch.contiguous_format, torch.channels_last),
        (torch.channels_last, torch.channels_last),
    ],
)
def test_cwd_does_not_depend_on_the_memory_format(layouts):
    """As logits of SegFormer lie, on which MMRazor's own `view` fails."""
    loss = MODELS.build(
        dict(type='mmrazor.ChannelWiseDivergence', tau=2, loss_weight=3)
    )
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 5, 6, 4, dtype=torch.float64)
    student, teacher = (
        each.clone(memory_format=layout).requires_grad_()
        for each, layout in zip(logits, layouts)
    )
    log_s, log_t = ((each.flatten(2) / 2).log_softmax(-1) for each in logits)
    expected = (log_t.exp() * (log_t - log_s)).sum() * 2**2 * 3 / (2 * 5)
    value = loss(student, teacher)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match='view'):
        type(loss).forward.__wrapped__(loss, student, teacher)


def test_kl_divergence_takes_the_place_of_the_loss_that_needs_mmcls():
    """KDSoftCELoss differs from it by the teacher's entropy, a constant."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 6, dtype=torch.float64)
    student.requires_grad_()
    soft_ce = -(teacher / 3).softmax(1) * (student / 3).log_softmax(1)
    (expected,) = torch.autograd.grad(
        soft_ce.sum(1).mean() * 3**2 * 0.5, student
    )
    loss = MODELS.build(
        dict(type='mmrazor.KLDivergence', tau=3.0, loss_weight=0.5)
    )
    (actual,) = torch.autograd.grad(loss(student, teacher), student)
    torch.testing.assert_close(actual, expected)
    with pytest.raises(TypeError, match='PlaceHolder'):
        MODELS.build(dict(type='mmrazor.KDSoftCELoss'))(student, teacher)


@pytest.mark.parametrize(
    'loop, prefix',
    [
        ('SingleTeacherDistillValLoop', 'teacher.'),
        ('SelfDistillValLoop', 'student.'),
    ],
)
def test_validation_loops_report_what_the_models_score_alone(
    loop, prefix, toy_config, tmp_path
):
    def validate(model, loop):
        cfg = Config.fromfile(toy_config)
        runner = Runner(
            model,
            str(tmp_path),
            val_dataloader=cfg.val_dataloader,
            val_evaluator=cfg.val_evaluator,
            val_cfg=dict(type=loop),
            default_scope='mmseg',
            experiment_name=f'{tmp_path.name}_{loop}',
        )
        runner.val()
        return {
            key: value.current()
            for key, value in runner.message_hub.log_scalars.items()
            if 'time' not in key
        }

    model = MODELS.build(Config.fromfile(toy_config).model)
    for net in (model.student, model.teacher):
        torch.nn.init.normal_(net.decode_head.conv_seg.weight)
    both = validate(model, f'mmrazor.{loop}')
    judged = model.teacher if prefix == 'teacher.' else model.student
    judged.data_preprocessor = model.data_preprocessor
    alone = validate(judged, 'ValLoop')
    assert {'val/mIoU', 'val/aAcc'} <= set(alone)
    for key, value in alone.items():
        assert both[key.replace('val/', f'val/{prefix}')] == value


@pytest.mark.parametrize('kind', ['ChannelWiseDivergence', 'PKDLoss'])
def test_mmrazor_distiller_trains_a_step(kind, toy_config):
    """The whole of SingleTeacherDistill with a ConfigurableDistiller."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = Config.fromfile(toy_config)
    cfg.model.distiller.distill_losses.loss_cwd.type = kind
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for head in (model.student.decode_head, model.teacher.decode_head):
        torch.nn.init.normal_(head.conv_seg.weight)
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 64, 64)))
    )
    data = dict(
        inputs=list(torch.randint(0, 255, (2, 3, 64, 64))),
        data_samples=[sample, sample],
    )
    data = model.data_preprocessor(data, training=True)
    losses = model(data['inputs'], data['data_samples'], mode='loss')
    assert losses['distill.loss_cwd'] > 0
    losses['distill.loss_cwd'].backward()
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert model.teacher.backbone.conv1.weight.grad is None


@pytest.mark.parametrize(
    'name',
    [
        'TorchNativeQuantizer',
        'OpenVINOQuantizer',
        'TensorRTQuantizer',
        'AcademicQuantizer',
    ],
)
def test_quantizers_say_that_they_are_not_available(name):
    options = (
        dict(qconfig_mapping=dict(_global_=QCONFIG))
        if name == 'AcademicQuantizer'
        else dict(global_qconfig=QCONFIG)
    )
    with (
        DefaultScope.overwrite_default_scope('mmrazor'),
        pytest.raises(NotImplementedError, match='needs PyTorch 1.13'),
    ):
        MODELS.build(dict(type=f'mmrazor.{name}', **options))


def test_stand_in_raises_when_used_and_only_then():
    assert is_list_of(backend_config.__all__, str)
    for read in (
        lambda: backend_config.BackendConfigs['native'],
        lambda: list(backend_config.BackendConfigs),
        lambda: len(backend_config.BackendConfigs),
    ):
        with pytest.raises(NotImplementedError, match='BackendConfigs'):
            read()
    functions = [
        name for name in backend_config.__all__ if name != 'BackendConfigs'
    ]
    assert len(functions) == 8
    for name in functions:
        with pytest.raises(NotImplementedError, match=name):
            getattr(backend_config, name)()
    with pytest.raises(ImportError, match='needs PyTorch 1.13'):
        import mmrazor.structures.quantization.backend_config.native  # noqa


def run_as(monkeypatch, script: str, *arguments: str) -> list:
    """sys.argv after the layer has seen it in this main script."""
    monkeypatch.setitem(
        sys.modules, '__main__', SimpleNamespace(__file__=script)
    )
    monkeypatch.setattr(sys, 'argv', [script, *arguments])
    mmbckd_compat._patch_local_rank(mmrazor.__spec__)
    return sys.argv[1:]


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_local_rank_is_rewritten_for_tools_of_mmrazor(tool, monkeypatch):
    script = f'{mmrazor.__path__[0]}/.mim/tools/{tool}.py'
    assert run_as(
        monkeypatch,
        script,
        '--local-rank=1',
        'a.py',
        '--local-rank',
        '2',
        '--local-ranks',
    ) == ['--local_rank=1', 'a.py', '--local_rank', '2', '--local-ranks']


@pytest.mark.parametrize('script', ['/tmp/train.py', mmrazor.__file__])
def test_local_rank_is_left_alone_in_other_scripts(script, monkeypatch):
    assert run_as(monkeypatch, script, '--local-rank=1') == ['--local-rank=1']


def test_nothing_is_patched_for_an_unknown_mmrazor(tmp_path, monkeypatch):
    monkeypatch.setattr(mmbckd_compat, '_patched', [])
    monkeypatch.setattr(mmbckd_compat, '_why_not', [])
    (tmp_path / 'version.py').write_text("__version__ = '1.1.0'\n")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    with pytest.warns(UserWarning, match=r'but found .*mmrazor 1\.1\.0.*pip'):
        mmbckd_compat._patch(spec)
    assert mmbckd_compat.patched() == []
    assert 'mmrazor==1.0.0' in mmbckd_compat.why_not()


def test_older_torch_is_not_supported(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.6.0+cu124')
    assert 'torch 2.6.0+cu124' in mmbckd_compat._unsupported(mmrazor.__spec__)
    monkeypatch.setattr(torch, '__version__', '2.7.0')
    assert mmbckd_compat._unsupported(mmrazor.__spec__) is None


def test_nccl_without_gpu_says_what_to_change(monkeypatch):
    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel

    # So that what is patched here is as it was afterwards.
    for owner, name in (
        (utils, '_init_dist_pytorch'),
        (MMDistributedDataParallel, '__init__'),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    mmbckd_compat._patch_cpu_distributed(mmrazor.__spec__)
    with pytest.raises(ValueError, match="backend='gloo'"):
        utils._init_dist_pytorch('nccl')
