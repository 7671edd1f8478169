from collections.abc import Sequence
from itertools import count
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BaseInstanceMasks
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn

from ...utils import batch_of_call


@TASK_UTILS.register_module()
class GroundTruthRecorder(BaseRecorder):
    """Record a map of the truth, for ``source='label'`` of the boundary term.

    Args:
        source (str): The field of the data samples: one that holds a map as
            ``data`` (mmseg) or ``sem_seg`` (mmdet), such as
            ``'gt_sem_seg'``, or ``'gt_instances'``, whose masks become a map
            of instance ids, see :func:`instance_id_map`. Defaults to
            ``'gt_sem_seg'``.
        ignore_index (int): The id of the instances that are to be ignored,
            and of the padding. Defaults to 255.

    Raises:
        ValueError: If the batch has no such truth.

    Shape:
        - records: (N, H, W), integers
    """

    def __init__(
        self, source: str = 'gt_sem_seg', ignore_index: int = 255
    ) -> None:
        super().__init__(source)
        self.ignore_index = ignore_index
        self._recording = False

    def prepare_from_model(self, model: BaseModel) -> None:
        """Hook the model's own call, which gets the data samples."""
        model.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self._recording:
            return
        call = batch_of_call(args, kwargs)
        samples = call.get('data_samples') or [{}]
        inputs = call['inputs']
        if self.source == 'gt_instances':
            maps = [self._instance_map(each, inputs) for each in samples]
        else:
            maps = [self._label_map(each, inputs) for each in samples]
        sizes = {tuple(each.shape) for each in maps}
        if len(sizes) > 1:
            raise ValueError(
                f'Expected `{self.source}` of one size throughout a batch, '
                f'but got {sorted(sizes, reverse=True)}. Have the data '
                'preprocessor pad it (`pad_seg=True` in mmdet).'
            )
        self._data_buffer.append(torch.stack(maps))

    def _instance_map(self, sample: BaseDataElement, inputs: Tensor) -> Tensor:
        """The ids of an image's instances, (H, W) of the batch."""
        if 'masks' not in sample.get('gt_instances', {}):
            raise self._missing('`gt_instances` with masks')
        ids = instance_id_map(sample, inputs.shape[-2:], self.ignore_index)
        return torch.from_numpy(ids).to(inputs.device)

    def _label_map(self, sample: BaseDataElement, inputs: Tensor) -> Tensor:
        """The labels of an image, (H, W) of the batch."""
        truth = sample.get(self.source)
        if truth is None:
            raise self._missing(f'`{self.source}`')
        labels = label_map(truth)
        if labels is None:
            raise ValueError(
                f"Expected the map of `{self.source}` as its 'data' or "
                f"'sem_seg', but got only {truth.keys()}. Pack it under one "
                'of these names.'
            )
        labels = labels.squeeze(0).long()
        if labels.shape == tuple(sample.get('img_shape', ())[:2]):
            # mmdet pads the images, and their maps with `pad_seg` only.
            below, right = (
                max(padded - own, 0)
                for padded, own in zip(inputs.shape[-2:], labels.shape)
            )
            labels = F.pad(
                labels, (0, right, 0, below), value=self.ignore_index
            )
        return labels

    @staticmethod
    def _missing(truth: str) -> ValueError:
        return ValueError(
            f'Expected {truth} in the batch, for label affinities, but got '
            'none. Load it in the training pipeline (LoadAnnotations), or set '
            "another `source` of the boundary term ('semantic', 'feature')."
        )

    def __enter__(self) -> None:
        super().__enter__()
        self._recording = True

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False


def label_map(truth: BaseDataElement) -> Tensor | None:
    """The map of labels in the ``gt_sem_seg`` of a data sample.

    Args:
        truth (BaseDataElement): It, of mmseg or mmdet.

    Returns:
        Tensor | None: None if it has none.

    Shape:
        - returns: (1, H, W)
    """
    # The first is mmseg's name, the second mmdet's.
    return truth.get('data', truth.get('sem_seg'))


def instance_id_map(
    sample: BaseDataElement, shape: Sequence[int], ignore_index: int = 255
) -> np.ndarray:
    """Draw the instances of an image into one map of ids.

    Where masks overlap the smaller one is on top, since the larger could hide
    all of it, and of two of the same area the first. Crowds and other ignored
    instances lie below all others.

    Args:
        sample (BaseDataElement): A data sample of mmdet with ``gt_instances``
            and, where something is to be ignored, ``ignored_instances``.
        shape (Sequence[int]): Height and width of the batch's images. What
            lies outside of this image, its padding, is ignored.
        ignore_index (int): The id of what is to be ignored, which no instance
            has. Defaults to 255.

    Returns:
        np.ndarray: 0 for the background, and one id per instance.

    Shape:
        - returns: ``shape``, int32
    """
    ids = np.full(shape, ignore_index, np.int32)
    height, width = sample.img_shape[:2]
    ids[:height, :width] = 0
    ignored = sample.get('ignored_instances', {})
    ignored_masks = ignored.get('masks')
    for i, area in enumerate(_areas(ignored_masks)):
        if area > 0:
            _draw(ids, ignored_masks[i], ignore_index)
        else:
            # The mask of a crowd is no polygon: poly2mask=False drops it.
            x1, y1, x2, y2 = ignored.bboxes[i].tolist()
            top, left = max(int(y1), 0), max(int(x1), 0)
            ids[top : ceil(y2), left : ceil(x2)] = ignore_index
    masks = sample.gt_instances.masks
    free_ids = (i for i in count(1) if i != ignore_index)
    areas = _areas(masks)
    # What is drawn later is on top.
    order = sorted(
        range(len(areas)), key=lambda i: (areas[i], i), reverse=True
    )
    for i, instance_id in zip(order, free_ids):
        _draw(ids, masks[i], instance_id)
    return ids


def _areas(masks: BaseInstanceMasks | None) -> Sequence:
    """Areas of masks, of which mmdet cannot tell those of none."""
    return masks.areas if masks else ()


def _draw(ids: np.ndarray, mask: BaseInstanceMasks, value: int) -> None:
    """Set the pixels of one mask, which may be padded already."""
    pixels = mask.to_ndarray()[0]
    height, width = (min(a, b) for a, b in zip(ids.shape, pixels.shape))
    ids[:height, :width][pixels[:height, :width] > 0] = value
