from collections.abc import Sequence

from mmengine.logging import MessageHub
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import relation_kl


@MODELS.register_module()
class ContextRelationLoss(nn.Module):
    """Context distillation: the student's pixels have to relate to one
    another as the teacher's do.

    The formula is :func:`mmbckd.functional.relation_kl`. Where both inputs
    are sequences of feature maps (the levels of an FPN), the loss is the mean
    over their levels.

    Args:
        tau (float): Temperature of the relations. Defaults to 0.1.
        exclude_self (bool): Whether to leave a pixel's relation to itself
            out. Defaults to False.
        center (bool): Whether to subtract the features' mean over each image
            first. Defaults to False.
        block_size (int | None): Rows and columns of the tiles that the
            relations are computed in. Defaults to None: chosen by device.
        loss_weight (float): λ_cd. Defaults to 1.
        warmup (float): The share of the training, in [0, 1], over whose
            iterations the weight grows from 0 to ``loss_weight``. Relations
            do not say which class is which: on class logits they can keep a
            student from telling two classes apart that it has not learned
            yet. Outside of a training by mmengine's runner the weight is
            ``loss_weight``. Defaults to 0: no warm-up.

    Raises:
        ValueError: If ``warmup`` is not in [0, 1].

    Shape:
        - preds_S: (N, C_S, H_S, W_S), or a sequence of such maps.
        - preds_T: (N, C_T, H_T, W_T), or a sequence of as many maps.
        - returns: a scalar.
    """

    def __init__(
        self,
        tau: float = 0.1,
        exclude_self: bool = False,
        center: bool = False,
        block_size: int | None = None,
        loss_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= warmup <= 1:
            raise ValueError(
                'Expected the `warmup` of ContextRelationLoss as a share of '
                f'the training, from 0 to 1, but got {warmup}.'
            )
        self.tau = tau
        self.exclude_self = exclude_self
        self.center = center
        self.block_size = block_size
        self.loss_weight = loss_weight
        self.warmup = warmup

    def forward(
        self,
        preds_S: Tensor | Sequence[Tensor],
        preds_T: Tensor | Sequence[Tensor],
    ) -> Tensor:
        """Return the weighted loss, see the class for the shapes.

        Raises:
            ValueError: If student and teacher do not have as many maps.
        """
        preds_S = [preds_S] if isinstance(preds_S, Tensor) else preds_S
        preds_T = [preds_T] if isinstance(preds_T, Tensor) else preds_T
        if len(preds_S) != len(preds_T):
            raise ValueError(
                'ContextRelationLoss compares feature maps pair by pair, but '
                f'the student gave {len(preds_S)} and the teacher '
                f'{len(preds_T)}. Name modules with as many outputs, or pick '
                'one output with `data_idx`.'
            )
        losses = [
            relation_kl(
                s,
                t,
                tau=self.tau,
                exclude_self=self.exclude_self,
                center=self.center,
                block_size=self.block_size,
            )
            for s, t in zip(preds_S, preds_T)
        ]
        first, *others = losses
        return self._weight() * sum(others, start=first) / len(losses)

    def _weight(self) -> float:
        """The weight in this iteration."""
        if not self.warmup:
            return self.loss_weight
        hub = MessageHub.get_current_instance()
        total = hub.get_info('max_iters')
        if total is None:
            return self.loss_weight
        done = (hub.get_info('iter') + 1) / (self.warmup * total)
        return self.loss_weight * min(1.0, done)
