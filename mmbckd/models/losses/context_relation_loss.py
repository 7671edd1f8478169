from typing import Optional, Sequence, Union

import torch
import torch.nn.functional as F
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
        block_size (int, optional): Rows and columns of the tiles that the
            relations are computed in. Defaults to None: chosen by device.
        balanced (bool): Whether each class counts alike, instead of each
            pixel; for features that are posteriors of ``ContextConnector``.
            A candidate: it holds whole relations. Defaults to False.
        loss_weight (float): λ_cd. Defaults to 1.

    Shape:
        - preds_S: (N, C_S, H_S, W_S), or a sequence of such maps.
        - preds_T: (N, C_T, H_T, W_T), or a sequence of as many maps.
        - returns: a scalar.
    """

    def __init__(self,
                 tau: float = 0.1,
                 exclude_self: bool = False,
                 center: bool = False,
                 block_size: Optional[int] = None,
                 balanced: bool = False,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        self.tau = tau
        self.exclude_self = exclude_self
        self.center = center
        self.block_size = block_size
        self.balanced = balanced
        self.loss_weight = loss_weight

    def forward(self, preds_S: Union[Tensor, Sequence[Tensor]],
                preds_T: Union[Tensor, Sequence[Tensor]]) -> Tensor:
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
                'one output with `data_idx`.')
        if self.balanced:
            losses = [
                _balanced_kl(s, t, self.tau) for s, t in zip(preds_S, preds_T)
            ]
            return self.loss_weight * sum(losses) / len(losses)
        losses = [
            relation_kl(
                s,
                t,
                tau=self.tau,
                exclude_self=self.exclude_self,
                center=self.center,
                block_size=self.block_size) for s, t in zip(preds_S, preds_T)
        ]
        return self.loss_weight * sum(losses) / len(losses)


def _balanced_kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """sum_i w_i KL(R^T_i || R^S_i) / sum_i w_i over the rows of the batch,
    w_i = sum_c p_i(c) / sum_k p_k(c) of the teacher's posteriors p."""
    student, teacher = student.flatten(2), teacher.flatten(2)
    p = teacher.square()
    weights = (p / p.sum((0, 2), keepdim=True)).sum(1)
    with torch.autocast(student.device.type, enabled=False):
        r_s, r_t = ((f.mT @ f / tau).log_softmax(-1)
                    for f in (F.normalize(student, dim=1),
                              F.normalize(teacher, dim=1)))
    kl = F.kl_div(r_s, r_t, reduction='none', log_target=True).sum(-1)
    return (weights * kl).sum() / weights.sum()
