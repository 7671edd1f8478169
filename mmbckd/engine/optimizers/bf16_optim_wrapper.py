import logging
import os
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

NO_BF16 = 'MMBCKD_NO_BF16'


def computes_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 itself.

    Where it does not, PyTorch emulates bfloat16, on a CPU many times slower
    than float32.

    Args:
        device (str): The type of the device, such as ``'cpu'``.

    Returns:
        bool: False also if the environment variable ``MMBCKD_NO_BF16`` is
        set.
    """
    if os.environ.get(NO_BF16):
        return False
    if device == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if (
        device != 'cpu'
        or not torch.backends.mkldnn.is_available()
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return False
    # oneDNN also takes AVX-512 without its BF16 instructions, and emulates.
    if torch.backends.cpu.get_cpu_capability() == 'AVX512':
        ask = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
        return ask is not None and ask()
    return True


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """Train under bfloat16 autocast where the hardware computes in it.

    mmengine's ``AmpOptimWrapper`` refuses to run on a CPU. bfloat16 has the
    exponent range of float32, so that no loss scaler is needed and the
    wrapper is an ``OptimWrapper`` in everything but its context. On hardware
    without bfloat16, or if the environment variable ``MMBCKD_NO_BF16`` is
    set, it trains in float32 and says so in the log.

    Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.device = get_device()
        self.autocasts = computes_bf16(self.device)
        if not self.autocasts:
            why = (
                f'{NO_BF16} is set'
                if os.environ.get(NO_BF16)
                else f'this {self.device} device has no bfloat16 arithmetic'
            )
            print_log(
                f'Training in float32 instead of bfloat16: {why}.',
                logger='current',
                level=logging.INFO,
            )

    @contextmanager
    def optim_context(self, model: nn.Module):
        # Entered anew for every step: autocast keeps its bfloat16 copies of
        # the weights until the outermost context ends, and copies that
        # outlive a step would be of weights that are no longer there.
        with (
            super().optim_context(model),
            torch.autocast(
                self.device, dtype=torch.bfloat16, enabled=self.autocasts
            ),
        ):
            yield
