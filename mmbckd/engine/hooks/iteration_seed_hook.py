import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Let a resumed run end on the numbers of an uninterrupted one.

    mmengine's ``IterBasedTrainLoop`` brings the data back to where a run was
    interrupted (``EpochBasedTrainLoop`` does not), but not the random numbers
    that the model draws, such as those of dropout. This hook seeds PyTorch
    before every iteration with what the run's seed, the iteration and the
    rank give, so that nothing has to be stored and what happens in between (a
    validation, say) has no influence.
    """

    # After the hooks that may draw numbers themselves.
    priority = 'LOWEST'

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list = None,
    ) -> None:
        """Seed the iteration."""
        sequence = np.random.SeedSequence(
            [runner.seed, runner.iter, get_rank()]
        )
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)
