from collections.abc import Sequence

from mmengine.dist import get_default_group, is_distributed
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import boundary_affinity_loss
from ...functional.boundary_affinity import check_source


@MODELS.register_module()
class BoundaryAffinityLoss(nn.Module):
    """Boundary distillation: the student's boundary map has to explain which
    neighboring pixels the teacher holds to be alike.

    The formula is :func:`mmbckd.functional.boundary_affinity_loss`. In
    distributed training its pairs are those of all processes, so that the
    batch may be split among any number of them.

    Args:
        source (str): What ``preds_T`` holds: ``'semantic'`` (class logits),
            ``'feature'`` (one or more feature maps) or ``'label'`` (a label
            or instance-id map). Defaults to ``'semantic'``.
        radius (float): Pairs at a distance below ``radius``, in pixels of
            the boundary map, are compared. Defaults to 5.
        tau (float): Temperature of the teacher's softmax, for
            ``source='semantic'``. Defaults to 1.
        ignore_index (int): Label whose pixels drop every pair they touch,
            for ``source='label'``. Defaults to 255.
        loss_weight (float): λ_bd. Defaults to 1.

    Raises:
        ValueError: If ``source`` is none of these.

    Shape:
        - preds_S: (N, 1, H, W), boundary logits, the output of
          :class:`HierarchicalBoundaryConnector`.
        - preds_T: as the chosen source of
          :func:`mmbckd.functional.boundary_affinity_loss` wants it.
        - returns: a scalar.
    """

    def __init__(
        self,
        source: str = 'semantic',
        radius: float = 5.0,
        tau: float = 1.0,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_source(source)
        self.source = source
        self.radius = radius
        self.tau = tau
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight

    def forward(
        self, preds_S: Tensor, preds_T: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted loss, see the class for the shapes."""
        return self.loss_weight * boundary_affinity_loss(
            preds_S,
            preds_T,
            source=self.source,
            radius=self.radius,
            tau=self.tau,
            ignore_index=self.ignore_index,
            group=get_default_group() if is_distributed() else None,
        )
