"""FLOPs, and bytes saved for the backward pass, of one training step."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch
from weakref import ReferenceType, ref

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ...models.utils import STUDENT, build_model, num_classes_of
from .config import model_config

_aten = torch.ops.aten
#: What a backward pass spends its time on.
_PRODUCTS = {
    _aten.convolution_backward.default,
    _aten.mm.default,
    _aten.bmm.default,
    _aten.addmm.default,
}


def build(config: Config) -> BaseModel:
    """The model of a training, with random weights, ready to be trained."""
    model = model_config(config)
    if 'teacher_ckpt' in model:
        model.teacher_ckpt = None
    _forget_weights(model)
    logger = MMLogger.get_current_instance()
    level = logger.level
    # It warns of a teacher with random weights.
    logger.setLevel(logging.ERROR)
    try:
        with DefaultScope.overwrite_default_scope(
            config.get('default_scope', 'mmengine')
        ):
            built = build_model(model, config.get('data_preprocessor'))
    finally:
        logger.setLevel(level)
    built = revert_sync_batchnorm(built)
    built.train()
    if quantization := getattr(built, 'quantization', None):
        # Any image will do: shapes do not depend on ranges.
        quantization.calibrate([torch.rand(1, 3, 64, 64)])
    return built


def _forget_weights(node: Any) -> None:
    """Have no part of a model's config load or download weights."""
    if isinstance(node, dict):
        if node.get('pretrained'):
            node['pretrained'] = None
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        _forget_weights(child)


def networks(model: BaseModel) -> tuple[BaseModel, BaseModel | None]:
    """Student and teacher; of a model alone, that and none."""
    student = getattr(model, STUDENT, model)
    if not isinstance(student, (BaseSegmentor, BaseDetector)):
        raise ValueError(
            'Expected a segmentor or a detector, or a distillation of one, '
            f'but got {type(student).__name__}. The cost of other models is '
            'not told.'
        )
    return student, getattr(model, 'teacher', None)


def _batch(
    model: BaseModel, number: int, size: tuple[int, int], with_mask: bool
) -> dict:
    """Images and truth as a data loader would give them."""
    classes = num_classes_of(model) or 2
    if isinstance(model, BaseDetector):
        return demo_mm_inputs(
            number,
            (3, *size),
            num_classes=classes,
            with_mask=with_mask,
            use_box_type=True,
        )
    generator = torch.Generator().manual_seed(0)

    def integers(below: int, channels: int) -> Tensor:
        shape = (channels, *size)
        return torch.randint(below, shape, generator=generator)

    samples = [
        SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size),
            gt_sem_seg=PixelData(data=integers(classes, 1)),
            gt_edge_map=PixelData(data=integers(2, 1)),
        )
        for _ in range(number)
    ]
    return dict(
        inputs=[integers(256, 3).byte() for _ in range(number)],
        data_samples=samples,
    )


def shapes_of_step(model: BaseModel, *args) -> tuple[_Meter, dict]:
    """What :func:`run_step` counts, of tensors with a shape and no values.

    The model's weights have none either from then on.

    Raises:
        RuntimeError: If a shape depends on values.
    """
    shapes = ShapeEnv(
        # What is only logged, such as an accuracy, may depend on values.
        allow_scalar_outputs=True,
        allow_dynamic_output_shape_ops=True,
    )
    mode = FakeTensorMode(
        allow_non_fake_inputs=True, shape_env=shapes, static_shapes=True
    )
    model._apply(mode.from_tensor)
    return run_step(model, *args, mode)


def run_step(
    model: BaseModel,
    scope: str,
    batch_size: int,
    size: tuple[int, int],
    with_mask: bool,
    mode: FakeTensorMode | None = None,
) -> tuple[_Meter, dict]:
    """Run a step; what was met on the way, and the backward pass's FLOPs."""
    hub = MessageHub.get_current_instance()
    if hub.get_info('iter') is None:  # YOLOX resizes batches by it
        hub.update_info('iter', 0)
    meter = _Meter(model)
    with (
        DefaultScope.overwrite_default_scope(scope),
        mode or nullcontext(),
    ):
        data = model.data_preprocessor(
            _batch(networks(model)[0], batch_size, size, with_mask),
            training=True,
        )
        with meter.saving():
            losses = model(**data, mode='loss')
        with mode or _WithoutProducts():
            return meter, _backward(model, losses, meter.counter)


class _WithoutProducts(TorchDispatchMode):
    """Products are not computed, and are zeros: no shape of a backward pass
    depends on their values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(
            Tensor, lambda each: each.to('meta'), (args, kwargs or {})
        )
        return tree_map_only(
            Tensor,
            lambda each: torch.zeros_like(each, device='cpu'),
            func(*args, **kwargs),
        )


class _Saved:
    """What the graph holds in place of a tensor, and dies with it."""

    def __init__(self, tensor: Tensor, part: str) -> None:
        self.tensor = tensor
        self.part = part


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, right about grouped convolutions.

    Its formula for the gradient of a weight takes a convolution with groups
    for one without, which is groups times too much.

    Returns:
        FlopCounterMode: It counts what is run within.
    """

    def backward(
        grad: list, image: list, weight: list, *args, **kwargs
    ) -> int:
        transposed, *_, wanted = args[4:]
        forward = conv_flop_count(image, weight, grad, transposed=transposed)
        return forward * (wanted[0] + wanted[1])

    return FlopCounterMode(
        display=False, custom_mapping={_aten.convolution_backward: backward}
    )


class _Meter:
    """Multiply-adds, and bytes saved for backward, of the parts of a step.

    Args:
        model (BaseModel): The model that is trained.
    """

    def __init__(self, model: BaseModel) -> None:
        self.flops: dict[str, int] = defaultdict(int)
        self.saved: dict[str, int] = defaultdict(int)
        self.losses: list[str] = []
        self.counter = flop_counter()
        self._model = model
        self._part = 'student'
        self._held: list[ReferenceType[_Saved]] = []

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Count what is run within."""
        with ExitStack() as stack:
            for owner, name, part in self._parts():
                method = self._as_part(getattr(owner, name), part)
                stack.enter_context(patch.object(owner, name, method))
            stack.enter_context(self.counter)
            stack.enter_context(
                saved_tensors_hooks(self._save, lambda saved: saved.tensor)
            )
            with self._within('student'):
                yield
        self._count_saved()

    def _parts(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Methods, and the part that what they do belongs to."""
        teacher = getattr(self._model, 'teacher', None)
        if hasattr(self._model, 'run_teacher'):
            # With what is made of its outputs where they are recorded.
            yield self._model, 'run_teacher', 'teacher'
        elif teacher is not None:  # of MMRazor's own algorithms
            yield teacher, 'forward', 'teacher'
        distiller = getattr(self._model, 'distiller', None)
        if distiller is None:
            return
        connected = {}
        for loss, mapping in distiller.loss_forward_mappings.items():
            self.losses.append(loss)
            yield distiller.distill_losses[loss], 'forward', loss
            for record in mapping.values():
                if record.get('connector'):
                    connected.setdefault(record['connector'], loss)
        for name, loss in connected.items():
            yield distiller.connectors[name], 'forward', loss

    def _as_part(self, method: Callable, part: str) -> Callable:
        def counted(*args, **kwargs):
            with self._within(part):
                return method(*args, **kwargs)

        return counted

    @contextmanager
    def _within(self, part: str) -> Iterator[None]:
        outer, self._part = self._part, part
        before = self.counter.get_total_flops()
        counted = sum(self.flops.values())
        try:
            yield
        finally:
            # Less what inner parts have counted meanwhile.
            inner = sum(self.flops.values()) - counted
            run = self.counter.get_total_flops() - before
            # It counts a multiplication and an addition as two.
            self.flops[part] += run // 2 - inner
            self._part = outer

    def _save(self, tensor: Tensor) -> _Saved:
        saved = _Saved(tensor, self._part)
        self._held.append(ref(saved))
        return saved

    def _count_saved(self) -> None:
        """Count what graphs still hold: not that of an accuracy, say."""
        weights = (*self._model.parameters(), *self._model.buffers())
        seen = {StorageWeakRef(each.untyped_storage()) for each in weights}
        for saved in filter(None, (held() for held in self._held)):
            storage = saved.tensor.untyped_storage()
            if (key := StorageWeakRef(storage)) not in seen:
                seen.add(key)
                # Of an unknown size it raises, as other shapes do.
                self.saved[saved.part] += int(storage.nbytes())


def _backward(
    model: BaseModel, losses: dict, counter: FlopCounterMode
) -> dict[str, int]:
    """Multiply-adds of the backward pass, and what distilling adds to it."""

    def flops(names: list[str], keep: bool) -> int:
        loss, _ = model.parse_losses({name: losses[name] for name in names})
        if not loss.requires_grad:
            return 0
        model.zero_grad()
        with counter:
            loss.backward(retain_graph=keep)
        return counter.get_total_flops() // 2

    task = [name for name in losses if not name.startswith('distill.')]
    alone = flops(task, True) if 0 < len(task) < len(losses) else 0
    whole = flops(list(losses), False)
    added = whole - alone if len(task) < len(losses) else 0
    return dict(backward=whole, backward_distillation=added)
