from inspect import signature

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional.maps import at_one_size, check_logits


@MODELS.register_module()
class LogitLoss(nn.Module):
    """Any loss on the logits of student and teacher, whatever their sizes.

    The logits with more pixels are resized bilinearly
    (``align_corners=False``) to the size of the others; equal sizes reach the
    loss as they are.

    Args:
        loss (dict): Config of a loss that is called with ``preds_S`` and
            ``preds_T``, such as MMRazor's ``ChannelWiseDivergence``.

    Raises:
        ValueError: If the loss takes something else.

    Shape:
        - preds_S: (N, K, H_S, W_S), class logits.
        - preds_T: (N, K, H_T, W_T), class logits.
        - returns: what the loss returns.
    """

    def __init__(self, loss: dict) -> None:
        super().__init__()
        self.loss = MODELS.build(loss)
        parameters = signature(self.loss.forward).parameters
        needed = [
            name for name, p in parameters.items() if p.default is p.empty
        ]
        if sorted(needed) != ['preds_S', 'preds_T']:
            raise ValueError(
                'Expected a loss on logits that is called with `preds_S` and '
                f'`preds_T`, but got {type(self.loss).__name__}, which is '
                f'called with {list(parameters)}. Choose another `type`.'
            )

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, see the class for the shapes.

        Raises:
            TypeError: If one of both is no floating-point tensor.
            ValueError: If one of both is no map, or if they differ in their
                number of images or classes.
        """
        check_logits(preds_S, preds_T)
        student, teacher = at_one_size(preds_S, preds_T)
        return self.loss(preds_S=student, preds_T=teacher)
