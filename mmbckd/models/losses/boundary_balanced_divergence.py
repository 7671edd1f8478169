from mmengine.dist import get_default_group, is_distributed
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import boundary_balanced_divergence


@MODELS.register_module()
class BoundaryBalancedDivergence(nn.Module):
    """Distillation of logits in which the pixels near the teacher's
    boundaries count as much as all others.

    The formula is :func:`mmbckd.functional.boundary_balanced_divergence`. In
    distributed training its sums are over all processes.

    Args:
        radius (float): A pixel is near a boundary if the boundary is closer
            than this, in pixels of the logits. Defaults to 3.
        tau (float): Temperature of both softmaxes. Defaults to 1.
        loss_weight (float): Weight of the loss. Defaults to 1.

    Shape:
        - preds_S: (N, K, H_S, W_S), class logits.
        - preds_T: (N, K, H_T, W_T), class logits.
        - returns: a scalar.
    """

    def __init__(
        self, radius: float = 3.0, tau: float = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.radius = radius
        self.tau = tau
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the weighted loss, see the class for the shapes."""
        return self.loss_weight * boundary_balanced_divergence(
            preds_S,
            preds_T,
            radius=self.radius,
            tau=self.tau,
            group=get_default_group() if is_distributed() else None,
        )
