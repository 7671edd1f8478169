import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Train with the channels of maps last in memory, on a CPU.

    Convolutions, depthwise ones above all, are often faster so on a CPU. On a
    GPU the layout stays as it is. What is computed does not change but for
    rounding, nor do checkpoints.

    Raises:
        ValueError: If the model has a strided 1x1 convolution of fewer than 7
            input channels. Those of PyTorch 2.11 (oneDNN) write past a buffer
            in this layout, on CPUs without AVX-512.
    """

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        if next(model.parameters()).device.type != 'cpu':
            return
        narrow = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.in_channels < 7
        ]
        if narrow:
            raise ValueError(
                'Expected strided 1x1 convolutions of 7 input channels or '
                'more, for ChannelsLastHook, but got fewer in '
                f'{", ".join(narrow)}. Remove the hook: on some CPUs PyTorch '
                'corrupts the memory there.'
            )
        model.to(memory_format=torch.channels_last)
