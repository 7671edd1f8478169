import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Train with the channels of maps last in memory, on a CPU.

    Convolutions, depthwise ones above all, are often faster so on a CPU. On a
    GPU the layout stays as it is. What is computed does not change but for
    rounding, nor do checkpoints.
    """

    def before_train(self, runner: Runner) -> None:
        if next(runner.model.parameters()).device.type == 'cpu':
            runner.model.to(memory_format=torch.channels_last)
