from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module()
class WeightedCrossEntropyLoss(nn.Module):
    """Cross-entropy of a segmentation head, each class with its own weight.

    In place of mmseg's ``CrossEntropyLoss(class_weight=…)``, which looks the
    weight of an ignored pixel up by its label, 255, and fails. The loss is
    the weighted mean over the pixels that are labeled, as that of
    ``torch.nn.CrossEntropyLoss(weight, ignore_index)``; without any such pixel
    it is 0. ``tools/class_weights.py`` computes weights for a data set.

    Args:
        class_weight (Sequence[float]): A weight of at least 0 for each class.
        loss_weight (float): Weight of the loss. Defaults to 1.
        loss_name (str): Its name in the log. Defaults to ``'loss_ce'``.

    Shape:
        - pred: (N, C, H, W), logits.
        - label: (N, H, W), classes 0 to C - 1, or ``ignore_index``.
        - weight: (N, H, W), of at least 0, or None.
        - returns: a scalar.

    Raises:
        ValueError: If a weight is negative, not finite or all are 0.
    """

    class_weight: Tensor

    def __init__(
        self,
        class_weight: Sequence[float],
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__()
        weights = torch.tensor(list(class_weight), dtype=torch.float)
        if not (
            weights.isfinite().all() and (weights >= 0).all() and weights.any()
        ):
            raise ValueError(
                'Expected a finite `class_weight` of at least 0 for each '
                f'class, one of them above 0, but got {class_weight}.'
            )
        self.register_buffer('class_weight', weights, persistent=False)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        pred: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> Tensor:
        """Return the weighted loss, see the class for the shapes.

        Raises:
            ValueError: If the model does not predict as many classes as there
                are weights.
        """
        if pred.shape[1] != len(self.class_weight):
            raise ValueError(
                f'Expected one `class_weight` for each of the {pred.shape[1]} '
                f'classes predicted, but got {len(self.class_weight)}.'
            )
        labeled = label != ignore_index
        weights = self.class_weight[label.where(labeled, 0)] * labeled
        if weight is not None:
            weights = weights * weight
        losses = F.cross_entropy(
            pred, label, ignore_index=ignore_index, reduction='none'
        )
        total = weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        return self.loss_weight * (losses * weights).sum() / total
