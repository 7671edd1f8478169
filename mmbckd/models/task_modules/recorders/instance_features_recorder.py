from collections.abc import Sequence

from mmdet.structures.bbox import bbox2roi, get_box_tensor
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn

from ...utils import batch_of_call

SHIFTS = (-1, 0, 1)


@TASK_UTILS.register_module()
class InstanceFeaturesRecorder(ModuleOutputsRecorder):
    """Record what the box head of a two-stage detector, such as Faster R-CNN
    or Mask R-CNN, makes of the objects of the truth.

    Two models propose different boxes; those of the truth they have in common.
    For each, and for eight boxes around it, shifted by a part of its height
    and width, the features that the head classifies are recorded: of a box
    that fits, of boxes that fit less, and of those that show another object.
    As the context of a batch, their relations say which of its boxes show the
    like.

    Args:
        source (str): Name of the RoI head. Defaults to ``'roi_head'``.
        shift (float): What boxes are shifted by, as a part of their height and
            width. Defaults to 0.25: such boxes overlap with the true one by
            0.6 or, where shifted both ways, 0.39 (IoU), and box heads are
            trained to tell those above 0.5 from the others.

    Raises:
        ValueError: If the module has no box head, or more than one, or if the
            batch has no truth.

    Shape:
        - records: (1, C, 1, 9 R), a map of one pixel for each box, for the R
          objects of the batch, with the C channels that the head classifies

    Example:
        >>> boxes = dict(type='InstanceFeatures')
        >>> context = dict(student=boxes, teacher=boxes, tau=0.3)
    """

    def __init__(self, source: str = 'roi_head', shift: float = 0.25) -> None:
        super().__init__(source)
        self.shift = shift
        self._samples: Sequence[BaseDataElement] = ()

    def prepare_from_model(self, model: BaseModel) -> None:
        """Hook the model's own call, which gets the truth, and what puts out
        its features."""
        self._roi_head = model.get_submodule(self.source)
        box_head = getattr(self._roi_head, 'bbox_head', None)
        classifier = getattr(box_head, 'fc_cls', None)
        if not isinstance(classifier, nn.Module):
            raise ValueError(
                f'Expected "{self.source}" to be a RoI head with one box head '
                'that classifies (`bbox_head.fc_cls`), such as that of Faster '
                'R-CNN, for InstanceFeatures, but it is a '
                f'{type(self._roi_head).__name__}. Record what this model has '
                "instead, such as the outputs of its 'neck'."
            )
        self._classifier = classifier
        model.register_forward_pre_hook(self._see_call, with_kwargs=True)
        last = model.neck if model.with_neck else model.backbone
        last.register_forward_hook(self.forward_hook)

    def see(self, data_samples: Sequence[BaseDataElement] | None) -> None:
        """Take the truth of the batch, where the model is not called with it
        but its features are computed alone."""
        self._samples = data_samples or ()

    def _see_call(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self.see(batch_of_call(args, kwargs).get('data_samples'))

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Sequence[Tensor]
    ) -> None:
        """Record what the head makes of the last features."""
        if not self.recording:
            return
        truth = [sample.get('gt_instances', {}) for sample in self._samples]
        if not truth or any('bboxes' not in each for each in truth):
            raise ValueError(
                'Expected `gt_instances` in the batch, for InstanceFeatures, '
                'but got none. Load them in the training pipeline '
                '(LoadAnnotations with `with_bbox=True`).'
            )
        boxes = [get_box_tensor(each.bboxes) for each in truth]
        rois = bbox2roi([_shifted(each, self.shift) for each in boxes])
        classified: list[Tensor] = []
        hook = self._classifier.register_forward_pre_hook(
            lambda module, inputs: classified.append(inputs[0])
        )
        try:
            self._roi_head._bbox_forward(outputs, rois)
        finally:
            hook.remove()
        self.data_buffer.append(classified[0].T[None, :, None])


def _shifted(boxes: Tensor, shift: float) -> Tensor:
    """These boxes (R, 4) and the eight around each of them, (9 R, 4)."""
    size = boxes[:, 2:] - boxes[:, :2]
    steps = boxes.new_tensor([(x, y) for x in SHIFTS for y in SHIFTS])
    offsets = (shift * steps[:, None] * size).repeat(1, 1, 2)
    return (boxes + offsets).flatten(0, 1)
