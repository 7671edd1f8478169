"""Recorders that MMRazor does not have: of several modules, of models that
classify masks, of tokens, of the truth."""

from collections.abc import Sequence
from itertools import count
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BaseInstanceMasks
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import TASK_UTILS
from torch import nn

from ...functional import mask_class_logits, mask_query_logits


@TASK_UTILS.register_module()
class ModuleListOutputsRecorder(BaseRecorder):
    """Record the outputs of several modules as one list.

    For hierarchical features of a backbone that returns its last stage only.

    Args:
        source (Sequence[str]): Names of the modules, finest stride first.
    """

    def __init__(self, source: Sequence[str]) -> None:
        super().__init__(source)
        self._recorders = [ModuleOutputsRecorder(name) for name in source]

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook every module."""
        for recorder in self._recorders:
            recorder.initialize(model)

    def __enter__(self) -> None:
        super().__enter__()
        for recorder in self._recorders:
            recorder.__enter__()

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        # One record per forward: a list with one output per module.
        buffers = [r.data_buffer for r in self._recorders]
        self._data_buffer = [list(records) for records in zip(*buffers)]
        for recorder in self._recorders:
            recorder.__exit__(exc_type, exc_value, traceback)
            recorder.reset_data_buffer()


@TASK_UTILS.register_module()
class MaskClassLogitsRecorder(ModuleOutputsRecorder):
    """Record the class logits of a head that classifies masks, such as that
    of MaskFormer and Mask2Former.

    They are those of its last decoder layer, at the size of its masks: see
    :func:`mmbckd.functional.mask_class_logits`.

    Args:
        source (str): Name of the head, ``'decode_head'`` in mmseg. It puts
            out the class logits and the mask logits of its queries, both for
            each of its decoder layers.

    Raises:
        ValueError: If it puts out something else.

    Shape:
        - records: (N, K, h, w)
    """

    logits = staticmethod(mask_class_logits)

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Any
    ) -> None:
        """Keep the logits of what the head puts out."""
        if not self.recording:
            return
        if not isinstance(outputs, (list, tuple)) or len(outputs) != 2:
            name = type(self).__name__.removesuffix('Recorder')
            raise ValueError(
                f'Expected "{self.source}" to put out class logits and mask '
                f'logits of queries, for {name}, but got '
                f'{type(outputs).__name__} of {type(module).__name__}. Name '
                'the head of a model such as Mask2Former, or record a module '
                "of another, such as 'decode_head.conv_seg', by its name."
            )
        class_logits, mask_logits = (each[-1] for each in outputs)
        self.data_buffer.append(self.logits(class_logits, mask_logits))


@TASK_UTILS.register_module()
class MaskQueryLogitsRecorder(MaskClassLogitsRecorder):
    """Record the instance logits of a head that classifies masks, such as that
    of MaskFormer and Mask2Former: by them each pixel belongs to one of the
    queries, or to none.

    They are those of its last decoder layer, at the size of its masks: see
    :func:`mmbckd.functional.mask_query_logits`. With ``source='semantic'`` of
    the boundary term, the affinity of two pixels is the probability that they
    belong to the same instance.

    Args:
        source (str): Name of the head, ``'panoptic_head'`` in mmdet. It puts
            out the class logits and the mask logits of its queries, both for
            each of its decoder layers.

    Raises:
        ValueError: If it puts out something else.

    Shape:
        - records: (N, 1 + Q, h, w), the first of no instance

    Example:
        >>> boundary = dict(
        ...     student='backbone',
        ...     teacher=dict(type='MaskQueryLogits', source='panoptic_head'))
    """

    logits = staticmethod(mask_query_logits)


@TASK_UTILS.register_module()
class ModuleTokensRecorder(ModuleOutputsRecorder):
    """Record the tokens that a module of a ViT puts out as a map.

    The grid is that of the patches of the input: of the images that the
    module's own top module, such as the backbone, is called with. Where they
    are not divisible, the last patches are taken to be padded.

    Args:
        source (str): Name of the module, such as ``'backbone.layers.11'``.
        patch_size (int): Height and width of a patch in pixels. Defaults to
            16.
        num_prefix (int): Tokens before those of the patches, which are left
            out: those of the class and of registers. Defaults to 1.

    Raises:
        ValueError: If the tokens are not as many.

    Shape:
        - output of the module: (N, num_prefix + h * w, C), row by row
        - records: (N, C, h, w), with h and w the height and width of the
          input divided by ``patch_size``, rounded up

    Example:
        >>> teacher = dict(
        ...     type='ModuleTokens',
        ...     source='backbone.layers.11',
        ...     patch_size=16)
    """

    def __init__(
        self, source: str, patch_size: int = 16, num_prefix: int = 1
    ) -> None:
        super().__init__(source)
        self.patch_size = patch_size
        self.num_prefix = num_prefix
        self._size: Sequence[int] = ()

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook the module, and the one that gets the images."""
        super().prepare_from_model(model)
        top = model.get_submodule(self.source.partition('.')[0])
        top.register_forward_pre_hook(self._see_images)

    def _see_images(self, module: nn.Module, inputs: tuple) -> None:
        self._size = inputs[0].shape[-2:]

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: torch.Tensor
    ) -> None:
        """Record the tokens of a call."""
        if self.recording:
            self.data_buffer.append(self._map(outputs))

    def _map(self, tokens: torch.Tensor) -> torch.Tensor:
        height, width = (ceil(side / self.patch_size) for side in self._size)
        expected = self.num_prefix + height * width
        shape: tuple = tuple(getattr(tokens, 'shape', ()))
        if len(shape) != 3 or shape[1] != expected:
            got = shape or type(tokens).__name__
            size = 'x'.join(map(str, self._size))
            raise ValueError(
                f'Expected tokens of "{self.source}" in the shape (N, '
                f'{expected}, C), {self.num_prefix} and then {height} x '
                f'{width} patches of {self.patch_size} pixels in an input of '
                f'{size}, but got {got}. Set `num_prefix` and `patch_size` of '
                'its recorder to those of the model; maps need the recorder '
                "'ModuleOutputs'."
            )
        patches = tokens[:, self.num_prefix :]
        return patches.transpose(1, 2).unflatten(2, (height, width))


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
        call = dict(zip(('inputs', 'data_samples'), args), **kwargs)
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

    def _instance_map(
        self, sample: BaseDataElement, inputs: torch.Tensor
    ) -> torch.Tensor:
        """The ids of an image's instances, (H, W) of the batch."""
        if 'masks' not in sample.get('gt_instances', {}):
            raise self._missing('`gt_instances` with masks')
        ids = instance_id_map(sample, inputs.shape[-2:], self.ignore_index)
        return torch.from_numpy(ids).to(inputs.device)

    def _label_map(
        self, sample: BaseDataElement, inputs: torch.Tensor
    ) -> torch.Tensor:
        """The labels of an image, (H, W) of the batch."""
        truth = sample.get(self.source)
        if truth is None:
            raise self._missing(f'`{self.source}`')
        # The first is mmseg's name, the second mmdet's.
        labels = truth.get('data', truth.get('sem_seg'))
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


def recorded_modules(recorder: BaseRecorder) -> list[str]:
    """Names of the modules that a recorder listens to.

    Args:
        recorder (BaseRecorder): Any recorder of MMRazor's or of ours.

    Returns:
        list[str]: Empty if it records something else than modules.
    """
    if not isinstance(
        recorder, (ModuleOutputsRecorder, ModuleListOutputsRecorder)
    ):
        return []
    source = recorder.source
    return [source] if isinstance(source, str) else list(source)


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
