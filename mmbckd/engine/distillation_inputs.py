"""What the losses of distillation are given for a validation image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import (
    Any,
)

import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.structures.bbox import scale_boxes
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from ..models.algorithms.frozen_teacher_distill import (
    head_with_samples,
    run_head,
)
from ..models.task_modules.recorders import (
    GroundTruthRecorder,
    InstanceFeaturesRecorder,
)


def fit_truth(
    sample: BaseDataElement, shape: Sequence[int], ignore_index: int
) -> BaseDataElement:
    """A copy of a sample, with its truth where the image lies in the input.

    Test pipelines load the truth after they have resized the image, so that
    it is still in the size of the file, and nothing pads it as the image.

    Args:
        sample (BaseDataElement): A data sample of mmseg or mmdet.
        shape (Sequence[int]): Height and width of the model's input.
        ignore_index (int): The label of what lies outside of the image.

    Returns:
        BaseDataElement: The copy. Its label maps are as large as the input,
        its masks as large as the image in it.
    """
    sample = sample.clone()
    for name in ('gt_instances', 'ignored_instances'):
        instances = sample.get(name, {})
        masks = instances.get('masks')
        if masks is None:
            continue
        size = masks.height, masks.width
        scale = _scale(sample, size)
        instances.masks = masks.resize(_scaled(size, scale))
        if 'bboxes' in instances:
            instances.bboxes = scale_boxes(instances.bboxes, scale)
    maps = {}
    for name, labels in sample.get('gt_sem_seg', {}).items():
        size = labels.shape[-2:]
        size = _scaled(size, _scale(sample, size))
        labels = F.interpolate(labels[None].double(), size)[0].long()
        padding = (0, shape[1] - size[1], 0, shape[0] - size[0])
        maps[name] = F.pad(labels, padding, value=ignore_index)
    if maps:
        sample.gt_sem_seg = PixelData(**maps)
    return sample


def _scale(
    sample: BaseDataElement, size: Sequence[int]
) -> tuple[float, float]:
    """Width and height of the image as multiples of those of its truth."""
    shape = sample.img_shape
    if tuple(size) == tuple(shape[:2]):
        return 1.0, 1.0
    # Not the ratio of the sizes: the pipeline may have padded the image.
    return sample.get('scale_factor') or (
        shape[1] / size[1],
        shape[0] / size[0],
    )


def _scaled(size: Sequence[int], scale: Sequence[float]) -> tuple[int, int]:
    return round(size[0] * scale[1]), round(size[1] * scale[0])


def recorders_without_truth(
    distiller: nn.Module, sample: BaseDataElement
) -> list[tuple]:
    """Those recorders whose truth a sample does not have.

    Args:
        distiller (nn.Module): The distiller.
        sample (BaseDataElement): The data sample.

    Returns:
        list[tuple]: For each, the dict of recorders that has it, and its name
        there.
    """
    absent = []
    for manager in (distiller.student_recorders, distiller.teacher_recorders):
        for name, recorder in manager.recorders.items():
            if isinstance(recorder, GroundTruthRecorder):
                truth = sample.get(recorder.source)
                if truth is None or (
                    recorder.source == 'gt_instances' and 'masks' not in truth
                ):
                    absent.append((manager.recorders, name))
    return absent


def recorders_of_boxes(distiller: nn.Module) -> list[tuple]:
    """Those recorders whose maps are of boxes, not of the image.

    Args:
        distiller (nn.Module): The distiller.

    Returns:
        list[tuple]: As of :func:`recorders_without_truth`.
    """
    return [
        (manager.recorders, name)
        for manager in (
            distiller.student_recorders,
            distiller.teacher_recorders,
        )
        for name, recorder in manager.recorders.items()
        if isinstance(recorder, InstanceFeaturesRecorder)
    ]


def loss_inputs(
    model: BaseModel,
    data: dict,
    losses: Sequence[nn.Module | None],
    resting: list[tuple],
) -> dict[nn.Module, tuple]:
    """Run a step of training up to these losses; return what they are given.

    Neither they nor the models' own losses, which would need the truth, are
    computed. A loss of whose inputs something is not recorded is left out.

    Args:
        model (BaseModel): The distillation.
        data (dict): The batch.
        losses (Sequence[nn.Module]): Losses of its distiller, called with
            ``preds_S`` and ``preds_T``; None stands for no loss.
        resting (list[tuple]): Recorders that are to rest, see
            :func:`recorders_without_truth`.

    Returns:
        dict[nn.Module, tuple]: ``preds_S`` and ``preds_T``, by loss.
    """
    distiller = model.distiller
    inputs = {}

    def collect() -> dict:
        for name, records in distiller.loss_forward_mappings.items():
            loss = distiller.distill_losses[name]
            if loss in losses and all(
                _is_recorded(distiller, **record)
                for record in records.values()
            ):
                inputs[loss] = tuple(
                    distiller.get_record(**records[key])
                    for key in ('preds_S', 'preds_T')
                )
        return {}

    with ExitStack() as stack:
        stack.enter_context(_records_kept(distiller))
        for recorders, name in resting:
            stack.callback(recorders.__setitem__, name, recorders.pop(name))
        for network in (model.student, getattr(model, 'teacher', None)):
            if network is not None:
                stack.enter_context(
                    _replaced(network, 'forward', _inferring(network))
                )
        stack.enter_context(
            _replaced(distiller, 'compute_distill_losses', collect)
        )
        model(**data, mode='loss')
    return inputs


def _inferring(network: BaseModel) -> Callable:
    """The forward of a model, made to infer instead of computing a loss."""
    forward = network.forward
    head = head_with_samples(network)

    def infer(
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        if mode != 'loss':
            return forward(inputs, data_samples, mode=mode)
        # Of detectors not all have a plain forward that needs no truth, and
        # segmentors may predict an image in pieces.
        if isinstance(network, BaseDetector):
            forward(inputs, data_samples, mode='predict')
        elif head is not None:
            run_head(network, head, inputs, data_samples)
        else:
            forward(inputs, data_samples, mode='tensor')
        return {}

    return infer


def _is_recorded(
    distiller: nn.Module,
    recorder: str,
    from_student: bool,
    record_idx: int = 0,
    **kwargs,
) -> bool:
    manager = (
        distiller.student_recorders
        if from_student
        else distiller.teacher_recorders
    )
    found = manager.recorders.get(recorder)
    return found is not None and len(found.data_buffer) > record_idx


@contextmanager
def _records_kept(distiller: nn.Module) -> Iterator[None]:
    """Afterwards, recorders hold what they did: in the long form, a step's."""
    recorders = [
        recorder
        for manager in (
            distiller.student_recorders,
            distiller.teacher_recorders,
        )
        for recorder in manager.recorders.values()
    ]
    kept = [list(recorder.data_buffer) for recorder in recorders]
    try:
        yield
    finally:
        for recorder, records in zip(recorders, kept):
            recorder.reset_data_buffer()
            recorder.data_buffer.extend(records)


@contextmanager
def _replaced(
    module: nn.Module, name: str, method: Callable
) -> Iterator[None]:
    """A method of this one module replaced."""
    setattr(module, name, method)
    try:
        yield
    finally:
        delattr(module, name)
