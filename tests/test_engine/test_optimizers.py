import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmbckd.engine.optimizers import BF16OptimWrapper, bf16_optim_wrapper
from mmbckd.engine.optimizers.bf16_optim_wrapper import computes_bf16


@pytest.fixture
def logged(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def step():
    """A step on a linear model: the type of its output, and its weights."""
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 8))
        wrapper.update_params(output.float().square().sum())
    return output.dtype, model.weight.detach()


def hardware(monkeypatch, **answers):
    """Have PyTorch answer as on another machine."""
    monkeypatch.delenv('MMBCKD_NO_BF16', raising=False)
    onednn, capability, bf16 = (
        answers[k] for k in ('onednn', 'capability', 'bf16')
    )
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: True)
    monkeypatch.setattr(
        torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: onednn
    )
    monkeypatch.setattr(
        torch.backends.cpu, 'get_cpu_capability', lambda: capability
    )
    monkeypatch.setattr(
        torch.cpu, '_is_avx512_bf16_supported', lambda: bf16, raising=False
    )


@pytest.mark.parametrize(
    'onednn, capability, bf16, expected',
    [
        (True, 'AVX512', True, True),
        (True, 'AVX512', False, False),
        (False, 'AVX2', False, False),
        (True, 'DEFAULT', False, True),
    ],
    ids=['Zen 4', 'Skylake', 'Zen 3', 'ARM with BF16'],
)
def test_only_hardware_that_computes_in_bfloat16_counts(
    monkeypatch, onednn, capability, bf16, expected
):
    hardware(monkeypatch, onednn=onednn, capability=capability, bf16=bf16)
    assert computes_bf16('cpu') == expected


def test_variable_forces_float32(monkeypatch, logged):
    hardware(monkeypatch, onednn=True, capability='AVX512', bf16=True)
    monkeypatch.setenv('MMBCKD_NO_BF16', '1')
    dtype, weight = step()
    assert dtype == torch.float32
    assert logged.text.count('Training in float32') == 1
    assert 'MMBCKD_NO_BF16 is set' in logged.text

    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 8)).square().sum().backward()
    sgd.step()
    torch.testing.assert_close(weight, model.weight.detach(), rtol=0, atol=0)


def test_hardware_without_bfloat16_trains_in_float32(monkeypatch, logged):
    monkeypatch.delenv('MMBCKD_NO_BF16', raising=False)
    monkeypatch.setattr(
        bf16_optim_wrapper, 'computes_bf16', lambda device: False
    )
    dtype, _ = step()
    assert dtype == torch.float32
    assert 'this cpu device has no bfloat16 arithmetic' in logged.text


def test_hardware_with_bfloat16_autocasts(monkeypatch, logged):
    monkeypatch.setattr(
        bf16_optim_wrapper, 'computes_bf16', lambda device: True
    )
    dtype, weight = step()
    assert dtype == torch.bfloat16
    assert weight.dtype == torch.float32
    assert not logged.text
