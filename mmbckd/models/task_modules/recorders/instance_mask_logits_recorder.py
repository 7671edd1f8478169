from collections.abc import Sequence

import torch
from mmdet.models import FCNMaskHead
from mmdet.structures.bbox import bbox2roi, get_box_tensor
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn


@TASK_UTILS.register_module()
class InstanceMaskLogitsRecorder(ModuleOutputsRecorder):
    """Record the mask logits of a RoI head, such as that of Mask R-CNN, for
    the boxes of the truth.

    Two models propose different boxes; those of the truth they have in common.
    They are enlarged, so that the whole outline of an instance lies inside. Of
    the mask logits of a box, one map per class, that of the truth's class is
    taken. With ``type='SemanticAffinityLoss'`` of the boundary term the
    affinity of two pixels of a box is then that both belong to its instance,
    or both do not.

    Args:
        source (str): Name of the RoI head. Defaults to ``'roi_head'``.
        scale (float): What the height and width of the boxes are multiplied
            by, at least 1. What then lies outside of the image is cut off.
            Defaults to 1.2: such a box overlaps with the instance's by about
            0.7 (IoU), and mask heads are trained on all above 0.5.

    Raises:
        ValueError: If ``scale`` is less than 1, if the module has no mask
            head, or if the batch has no truth.

    Shape:
        - records: (R, 2, h, w), for the R instances of the batch in the size
          of the head's masks: the logits of outside, which are 0, and of
          inside

    Example:
        >>> masks = dict(type='InstanceMaskLogits')
        >>> boundary = dict(
        ...     type='SemanticAffinityLoss', student=masks, teacher=masks)
    """

    def __init__(self, source: str = 'roi_head', scale: float = 1.2) -> None:
        super().__init__(source)
        if not scale >= 1:
            raise ValueError(
                'Expected `scale` of InstanceMaskLogits to be at least 1, but '
                f'got {scale}.'
            )
        self.scale = scale
        self._samples: Sequence[BaseDataElement] = ()

    def prepare_from_model(self, model: BaseModel) -> None:
        """Hook the model's own call, which gets the truth, and what puts out
        its features."""
        self._roi_head = model.get_submodule(self.source)
        if not isinstance(
            getattr(self._roi_head, 'mask_head', None), FCNMaskHead
        ):
            raise ValueError(
                f'Expected "{self.source}" to be a RoI head with one mask '
                'head, such as that of Mask R-CNN, for InstanceMaskLogits, '
                f'but it is a {type(self._roi_head).__name__}. Record what '
                'this model has instead: MaskQueryLogits for one of queries, '
                "or its features by a module's name."
            )
        model.register_forward_pre_hook(self._see_call, with_kwargs=True)
        last = model.neck if model.with_neck else model.backbone
        last.register_forward_hook(self.forward_hook)

    def see(self, data_samples: Sequence[BaseDataElement] | None) -> None:
        """Take the truth of the batch, where the model is not called with it
        but its features are computed alone."""
        self._samples = data_samples or ()

    def _see_call(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        call = dict(zip(('inputs', 'data_samples'), args), **kwargs)
        self.see(call.get('data_samples'))

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Sequence[Tensor]
    ) -> None:
        """Record the masks that the head makes of the last features."""
        if not self.recording:
            return
        truth = [sample.get('gt_instances', {}) for sample in self._samples]
        if not truth or any('bboxes' not in each for each in truth):
            raise ValueError(
                'Expected `gt_instances` in the batch, for '
                'InstanceMaskLogits, but got none. Load them in the training '
                'pipeline (LoadAnnotations with `with_bbox=True`).'
            )
        rois = bbox2roi(
            [
                _enlarged(
                    get_box_tensor(each.bboxes), self.scale, sample.img_shape
                )
                for each, sample in zip(truth, self._samples)
            ]
        )
        labels = torch.cat([each.labels for each in truth])
        masks = self._roi_head._mask_forward(outputs, rois)['mask_preds']
        if masks.shape[1] == 1:  # class-agnostic
            labels = torch.zeros_like(labels)
        inside = masks[torch.arange(len(labels)), labels]
        outside = torch.zeros_like(inside)
        self.data_buffer.append(torch.stack([outside, inside], dim=1))


def _enlarged(boxes: Tensor, scale: float, shape: Sequence[int]) -> Tensor:
    """Boxes (R, 4) about the same centers, inside an image of this shape."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * (scale / 2)
    limit = boxes.new_tensor([shape[1], shape[0]])
    corners = [
        torch.minimum(corner.clamp(min=0), limit)
        for corner in (center - half, center + half)
    ]
    return torch.cat(corners, dim=1)
