from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """Train under bfloat16 autocast on whatever device is used, CPU included.

    mmengine's ``AmpOptimWrapper`` refuses to run on a CPU. bfloat16 has the
    exponent range of float32, so that no loss scaler is needed and the
    wrapper is an ``OptimWrapper`` in everything but its context.

    Takes the arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        # Entered anew for every step: autocast keeps its bfloat16 copies of
        # the weights until the outermost context ends, and copies that
        # outlive a step would be of weights that are no longer there.
        with super().optim_context(model), torch.autocast(
                device_type=get_device(), dtype=torch.bfloat16):
            yield
