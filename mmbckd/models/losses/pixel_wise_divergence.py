from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional import pixel_wise_divergence


@MODELS.register_module()
class PixelWiseDivergence(nn.Module):
    """Distillation of logits: every pixel is to have the teacher's class
    probabilities.

    The formula is :func:`mmbckd.functional.pixel_wise_divergence`. MMRazor's
    ``KLDivergence`` of the same logits is this loss divided by the number of
    classes with ``reduction='mean'``, and multiplied by the number of pixels
    of an image with ``'batchmean'``.

    Args:
        tau (float): Temperature of both softmaxes. Defaults to 1.
        loss_weight (float): Weight of the loss. Defaults to 1.

    Shape:
        - preds_S: (N, K, H_S, W_S), class logits.
        - preds_T: (N, K, H_T, W_T), class logits.
        - returns: a scalar.

    References:
        Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network.
        NIPS Deep Learning Workshop 2014.
    """

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.tau = tau
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the weighted loss, see the class for the shapes."""
        return self.loss_weight * pixel_wise_divergence(
            preds_S, preds_T, tau=self.tau
        )
