"""What a training costs, told from one step with random weights."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch
from weakref import ReferenceType, ref

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MMLogger
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

from ..models.utils import STUDENT, build_model, num_classes_of, read_model

#: Images with an annotation, of which an epoch consists.
EPOCHS = dict(CocoDataset=117266)

_aten = torch.ops.aten
#: What a backward pass spends its time on.
_PRODUCTS = {
    _aten.convolution_backward.default,
    _aten.mm.default,
    _aten.bmm.default,
    _aten.addmm.default,
}


def step_cost(
    config: Config,
    *,
    batch_size: int = 2,
    size: tuple[int, int] | None = None,
    tflops: float = 10.0,
    images: int | None = None,
) -> dict:
    """FLOPs and memory of a training's step, and an estimate of its hours.

    One step of ``batch_size`` made-up images is run on the CPU, in float32
    and with random weights: nothing is downloaded, and no data set is read.
    FLOPs are counted, and so are the bytes that autograd saves for the
    backward pass, each storage once and weights not; what is said of the
    config's own batch is that, scaled. Both follow from shapes alone, so that
    no more is computed than shapes depend on: of most segmentors nothing, of
    those that choose pixels by their loss, and of detectors, the forward
    pass. The hours are not measured: they are the FLOPs of the whole training
    divided by ``tflops``.

    Args:
        config (Config): The config of a training, with distillation or not,
            of MMSegmentation's or MMDetection's models.
        batch_size (int): Images in the step; batch norms after a global
            pooling want two. Defaults to 2.
        size (tuple[int, int] | None): Height and width of an image. Defaults
            to None: what the config trains on, see :func:`training_size`.
        tflops (float): What a GPU is assumed to sustain, in 1e12 FLOPs a
            second, a multiplication and an addition being two. Defaults to
            10.
        images (int | None): Images of an epoch, where the config counts
            epochs. Defaults to None: those of COCO 2017.

    Returns:
        dict: FLOPs are multiply-adds of products and convolutions, per
        image, as in :func:`model_cost`; element-wise arithmetic is not
        counted.

        - key: see :func:`cost_key`.
        - size, measured_batch: what was run.
        - batch, gpus, iterations: of the config.
        - student: ``parameters``; ``flops`` of its forward pass in training,
          with its heads' losses.
        - teacher: ``parameters``; ``flops`` of what is run of it. None
          without distillation.
        - losses: ``flops`` (forward) and ``activations`` by the name of each
          distillation loss, its connectors included.
        - flops: of the step; ``backward`` of the whole step, and
          ``backward_distillation`` what distilling adds to it.
        - activations: bytes saved in a step of the config's ``batch``.
        - tflops, gpu_hours: the assumption, and the estimate by it.

    Raises:
        ValueError: If the config trains no such model, or does not say how
            long or on what size.
    """
    model = _build(config)
    student, teacher = _networks(model)
    batch = config.train_dataloader.batch_size
    gpus = _gpus(config)
    iterations, seen = _length(config, batch * gpus, images)
    key = cost_key(config, batch_size, size, images)
    size = tuple(size or training_size(config, student))
    parameters = [each and _parameters(each) for each in (student, teacher)]

    made_up = (batch_size, size, _has_masks(config))
    scope = config.default_scope
    meter = None
    if isinstance(student, BaseSegmentor):
        try:
            meter, backward = _shapes_of_step(model, scope, *made_up)
        except RuntimeError:  # PyTorch's, where a shape depends on values
            model = _build(config)
    if meter is None:
        meter, backward = _step(model, scope, *made_up)
    flops = {name: count / batch_size for name, count in meter.flops.items()}
    total = sum(flops.values()) + backward['backward'] / batch_size
    scale = batch / batch_size
    activations = {name: n * scale for name, n in meter.saved.items()}
    return dict(
        key=key,
        size=list(size),
        measured_batch=batch_size,
        batch=batch,
        gpus=gpus,
        iterations=iterations,
        student=dict(parameters=parameters[0], flops=flops['student']),
        teacher=teacher
        and dict(parameters=parameters[1], flops=flops.get('teacher', 0)),
        losses={
            name: dict(
                flops=flops.get(name, 0), activations=activations.get(name, 0)
            )
            for name in meter.losses
        },
        flops={
            **{key: value / batch_size for key, value in backward.items()},
            'step': total,
        },
        activations=sum(activations.values()),
        tflops=tflops,
        gpu_hours=2 * total * seen / (tflops * 1e12) / 3600,
    )


def cost_key(
    config: Config,
    batch_size: int = 2,
    size: tuple[int, int] | None = None,
    images: int | None = None,
) -> str:
    """What the cost of a training depends on, as 16 hexadecimal digits.

    Two configs with the same key cost the same: they may differ in where data
    and checkpoints lie, in the weights of losses, in what is evaluated, and
    in the optimizer.

    Args:
        config (Config): The config of a training.
        batch_size (int): As of :func:`step_cost`. Defaults to 2.
        size (tuple[int, int] | None): As of :func:`step_cost`. Defaults to
            None.
        images (int | None): As of :func:`step_cost`. Defaults to None.

    Returns:
        str: The beginning of a SHA-256.

    Raises:
        ValueError: If the config trains nothing.
    """
    loader = config.get('train_dataloader') or {}
    content = dict(
        model=_without_weights(_model_config(config)),
        scope=config.get('default_scope'),
        data_preprocessor=config.get('data_preprocessor'),
        gpus=_gpus(config),
        batch_size=loader.get('batch_size'),
        dataset=_types(loader.get('dataset') or {}),
        transforms=list(_transforms(loader.get('dataset') or {})),
        length={
            key: config.train_cfg.get(key)
            for key in ('max_iters', 'max_epochs')
        },
        run=[batch_size, size, images],
    )
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_costs(path: str | Path) -> dict[str, dict]:
    """What tools/step_cost.py wrote, by the keys of the configs.

    Args:
        path (str | Path): The file.

    Returns:
        dict[str, dict]: What :func:`step_cost` returned, with the ``config``'s
        name; empty if there is no such file.
    """
    path = Path(path)
    rows = json.loads(path.read_text())['rows'] if path.is_file() else []
    return {row['key']: row for row in rows if 'error' not in row}


def training_size(config: Config, model: BaseModel) -> tuple[int, int]:
    """Height and width of the images that a config trains on.

    Args:
        config (Config): The config of a training.
        model (BaseModel): Its student.

    Returns:
        tuple[int, int]: For a segmentor the size that its data preprocessor
        pads to. For a detector that of the last transform that resizes,
        crops to pixels or pads, the largest where it chooses, and of an image
        wider than high.

    Raises:
        ValueError: If the config does not say.
    """
    if isinstance(model, BaseSegmentor):
        found = model.data_preprocessor.size
    else:
        found = None
        for transform in _transforms(config.train_dataloader.dataset):
            found = _size_after(transform) or found
    if found is None:
        raise ValueError(
            'Expected a config that trains on images of one size, but it '
            'says none in its data preprocessor or transforms. Set `size` '
            '(--size).'
        )
    return tuple(found)


def _types(dataset: dict) -> list[str]:
    """The type of a data set, and of those that it wraps."""
    inner = dataset.get('datasets', [dataset.get('dataset')])
    return [
        str(dataset.get('type')),
        *(name for each in inner if each for name in _types(each)),
    ]


def _transforms(dataset: dict) -> Iterator[dict]:
    """The transforms of a data set, of those that it wraps first."""
    for inner in dataset.get('datasets', [dataset.get('dataset')]):
        if inner is not None:
            yield from _transforms(inner)
    for transform in dataset.get('pipeline', ()):
        yield transform
        for branch in transform.get('transforms', ()):
            yield from [branch] if isinstance(branch, dict) else branch


def _size_after(transform: dict) -> tuple[int, int] | None:
    """Height and width that a transform of mmdet makes; None if any."""
    if transform['type'].endswith('RandomCrop'):
        absolute = transform.get('crop_type', 'absolute') == 'absolute'
        sides = transform['crop_size'] if absolute else None
    else:
        sides = transform.get('size') or transform.get('scale')
        sides = sides or transform.get('scales')
    if sides is None:
        return None
    if not isinstance(sides[0], int):
        sides = max(sides, key=lambda each: each[0] * each[1])
    # mmdet's are width and height, or the long side and the short one.
    return min(sides), max(sides)


def _model_config(config: Config) -> dict:
    """The model of a training, with student and teacher written out."""
    missing = [
        key
        for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
        if not config.get(key)
    ]
    if missing:
        raise ValueError(
            'Expected the config of a training, but got '
            f'{config.filename or "one"} without {missing}. Name the config '
            'that is given to `mim train`.'
        )
    model = copy.deepcopy(config.model)
    for side in (STUDENT, 'teacher'):
        if isinstance(model.get(side), str):
            model[side] = read_model(model[side])
    return model


def _without_weights(node: Any) -> Any:
    """A part of a model's config without initial weights, and those of
    losses."""
    if isinstance(node, dict):
        ignored = ('teacher_ckpt', 'pretrained', 'init_cfg', 'loss_weight')
        return {
            key: _without_weights(child)
            for key, child in node.items()
            if key not in ignored
        }
    if isinstance(node, (list, tuple)):
        return [_without_weights(child) for child in node]
    return node


def _build(config: Config) -> BaseModel:
    """The model of a training, with random weights, ready to be trained."""
    model = _model_config(config)
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


def _networks(model: BaseModel) -> tuple[BaseModel, BaseModel | None]:
    """Student and teacher; of a model alone, that and none."""
    student = getattr(model, STUDENT, model)
    if not isinstance(student, (BaseSegmentor, BaseDetector)):
        raise ValueError(
            'Expected a segmentor or a detector, or a distillation of one, '
            f'but got {type(student).__name__}. The cost of other models is '
            'not told.'
        )
    return student, getattr(model, 'teacher', None)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _gpus(config: Config) -> int:
    """Of the config's name, such as 4xb2; else of the whole batch that its
    rate is meant for; else one."""
    named = re.search(r'_(\d+)xb\d+', Path(config.filename or '').stem)
    if named:
        return int(named[1])
    whole = config.get('auto_scale_lr', {}).get('base_batch_size')
    return max(1, (whole or 0) // config.train_dataloader.batch_size)


def _length(
    config: Config, whole_batch: int, images: int | None
) -> tuple[int, int]:
    """Iterations of a training, and the images it sees."""
    loop = config.train_cfg
    if 'max_iters' in loop:
        return loop.max_iters, loop.max_iters * whole_batch
    dataset = config.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    images = images or EPOCHS.get(dataset.type.rpartition('.')[2])
    if images is None:
        raise ValueError(
            f'Expected to know how many images an epoch of {dataset.type} '
            'has, but do not. Set `images` (--images).'
        )
    seen = loop.max_epochs * images
    return seen // whole_batch, seen


def _has_masks(config: Config) -> bool:
    """Whether a detector is given masks to train on."""
    return any(
        transform.get('with_mask')
        for transform in _transforms(config.train_dataloader.dataset)
    )


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


def _shapes_of_step(model: BaseModel, *args) -> tuple[_Meter, dict]:
    """What :func:`_step` counts, of tensors that have a shape and no values.

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
    return _step(model, *args, mode)


def _step(
    model: BaseModel,
    scope: str,
    batch_size: int,
    size: tuple[int, int],
    with_mask: bool,
    mode: FakeTensorMode | None = None,
) -> tuple[_Meter, dict]:
    """Run a step; what was met on the way, and the backward pass's FLOPs."""
    meter = _Meter(model)
    with (
        DefaultScope.overwrite_default_scope(scope),
        mode or nullcontext(),
    ):
        data = model.data_preprocessor(
            _batch(_networks(model)[0], batch_size, size, with_mask),
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
