from inspect import signature

from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional.maps import at_one_size, check_logits

# What MMRazor's losses call the two, that of the student first.
ARGUMENTS = (
    ('preds_S', 'preds_T'),
    ('s_feature', 't_feature'),
    ('logits_S', 'logits_T'),
)


@MODELS.register_module()
class LogitLoss(nn.Module):
    """Any loss on the logits of student and teacher, whatever their sizes.

    The logits with more pixels are resized bilinearly
    (``align_corners=False``) to the size of the others; equal sizes reach the
    loss as they are. A loss of image classification, whose arguments MMRazor
    calls ``logits_S`` and ``logits_T``, gets the pixels of a batch as its
    samples, (N h w, K).

    Args:
        loss (dict): Config of a loss of two tensors, such as MMRazor's
            ``ChannelWiseDivergence``, ``ATLoss`` and ``DISTLoss``.

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
        needed = tuple(
            name for name, p in parameters.items() if p.default is p.empty
        )
        if needed not in ARGUMENTS:
            raise ValueError(
                'Expected a loss that is called with the two logits, by one '
                f'of the names {ARGUMENTS}, but got '
                f'{type(self.loss).__name__}, which is called with '
                f'{list(parameters)}. Choose another `type`.'
            )
        self.of_pixels = needed == ('logits_S', 'logits_T')

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, see the class for the shapes.

        Raises:
            TypeError: If one of both is no floating-point tensor.
            ValueError: If one of both is no map, or if they differ in their
                number of images or classes.
        """
        check_logits(preds_S, preds_T)
        student, teacher = at_one_size(preds_S, preds_T)
        if self.of_pixels:
            student, teacher = (
                x.movedim(1, -1).flatten(0, -2) for x in (student, teacher)
            )
        return self.loss(student, teacher)
