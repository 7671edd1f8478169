import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Train with the channels of maps last in memory.

    Convolutions, depthwise ones above all, are often faster so, on a CPU and
    under autocast on a GPU. What is computed does not change but for
    rounding, nor do checkpoints.
    """

    def before_train(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)
