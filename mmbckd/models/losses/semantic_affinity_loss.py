from mmengine.dist import get_default_group, is_distributed
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import semantic_affinity_loss


@MODELS.register_module()
class SemanticAffinityLoss(nn.Module):
    """Boundary distillation on the mask: the student has to predict the same
    class for neighboring pixels where the teacher does, and another one across
    the teacher's boundaries.

    The formula is :func:`mmbckd.functional.semantic_affinity_loss`. In
    distributed training its pairs are those of all processes, so that the
    batch may be split among any number of them.

    Args:
        radius (float): Pairs at a distance below ``radius``, in pixels of
            the student's logits, are compared. Defaults to 4.
        tau (float): Temperature of both softmaxes. Defaults to 1.
        loss_weight (float): λ_bd. Defaults to 1.

    Shape:
        - preds_S: (N, K, H, W), class logits.
        - preds_T: (N, K, h, w), class logits.
        - returns: a scalar.
    """

    def __init__(
        self, radius: float = 4.0, tau: float = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.radius = radius
        self.tau = tau
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the weighted loss, see the class for the shapes."""
        return self.loss_weight * semantic_affinity_loss(
            preds_S,
            preds_T,
            radius=self.radius,
            tau=self.tau,
            group=get_default_group() if is_distributed() else None,
        )
