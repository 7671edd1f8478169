import logging
import os.path as osp
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mmcv
import numpy as np
import torch
from mmengine import fileio
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from mmengine.utils import is_seq_of
from torch import Tensor, nn

from ...functional import (
    affinity_edges,
    relation_rows,
    semantic_affinity_edges,
)
from ...models.losses import (
    BoundaryAffinityLoss,
    ContextRelationLoss,
    SemanticAffinityLoss,
)
from ...models.task_modules.recorders import label_map
from ...visualization import (
    Boundary,
    Relations,
    Semantics,
    draw_distillation,
    draw_errors,
)
from ..distillation_inputs import (
    fit_truth,
    loss_inputs,
    recorders_of_boxes,
    recorders_without_truth,
)
from ..utils import unwrapped_model


@HOOKS.register_module()
class BCKDVisualizationHook(Hook):
    """Draw what student and teacher make of a few validation images.

    One figure per image, of the same images each time: the truth, the
    prediction and its errors (missed and spurious boundaries, broken
    regions); the student's boundary map B and the teacher's affinities as a
    map of edges, or, where boundaries are distilled on the mask, the edges
    of the class probabilities of both, and those of the labels; the relations
    of a few pixels to all others in student and teacher. What the model does
    not have is left out: without distillation the second and third, for a
    detector the first; so are relations of boxes (``InstanceFeatures``). Of
    several losses of a kind the first is drawn, and of the levels in a loss
    the first.

    Truth that the validation pipeline does not load is left out, which the
    log says once. No model computes its own loss for a figure: modules that
    run only there, such as auxiliary heads, are not drawn.

    The figures go to the backends of the runner's visualizer: files in
    ``vis_data/vis_image``, TensorBoard, W&B. Models are in eval mode while
    they are drawn, and training goes on as if nothing had been drawn.

    Args:
        interval (int): Iterations from one drawing to the next; it is also
            drawn at the end of training. Defaults to 500.
        num_images (int | None): Number of images, evenly spaced in the
            validation set. Defaults to None: 3, or all if there are fewer,
            unless there are ``indices``.
        indices (Sequence[int] | None): The images' places in the
            validation set. Defaults to None.
        points (Sequence[tuple[float, float]]): Pixels whose relations are
            drawn, as fractions (y, x) of the image's height and width, from
            0 to below 1. Defaults to ((0.6, 0.2), (0.5, 0.5), (0.7, 0.8)).
        tolerance (float): Distance in pixels, at least 1, up to which
            boundaries agree. Defaults to 2.0.
        min_area (int): Regions of fewer pixels do not count as broken, nor as
            pieces. Defaults to 0.
        ignore_index (int, optional): Label that the truth gives ignored
            pixels. Defaults to None: that of the validation set, or 255.
        backend_args (dict | None): Backend to read the images by, see
            :func:`mmengine.fileio.get`. Defaults to None.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is invalid, or, when training starts, if
            there is no validation set or not that many images in it.

    Example:
        >>> custom_hooks = [dict(type='BCKDVisualizationHook', interval=2000)]
    """

    # After the hooks that change the model.
    priority = 'LOW'

    def __init__(
        self,
        interval: int = 500,
        num_images: int | None = None,
        indices: Sequence[int] | None = None,
        points: Sequence[tuple[float, float]] = (
            (0.6, 0.2),
            (0.5, 0.5),
            (0.7, 0.8),
        ),
        tolerance: float = 2.0,
        min_area: int = 0,
        ignore_index: int | None = None,
        backend_args: dict | None = None,
    ) -> None:
        if indices is not None and num_images is not None:
            raise ValueError(
                'Expected `num_images` or `indices` of BCKDVisualizationHook, '
                'but got both. Leave one of them out.'
            )
        if indices is not None and not (indices and is_seq_of(indices, int)):
            raise ValueError(
                'Expected `indices` of BCKDVisualizationHook to be one or '
                f'more integers, but got {indices!r}.'
            )
        for name, value in (
            ('interval', interval),
            ('num_images', num_images),
        ):
            if value is not None and not (
                isinstance(value, int) and value >= 1
            ):
                raise ValueError(
                    f'Expected `{name}` of BCKDVisualizationHook to be an '
                    f'integer of at least 1, but got {value!r}.'
                )
        # Wrong values are to show now, not at the first drawing.
        pixel = np.zeros((1, 1), np.uint8)
        draw_errors(
            np.zeros((1, 1, 3), np.uint8),
            pixel,
            pixel,
            1,
            tolerance=tolerance,
            min_area=min_area,
        )
        relation_rows(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), points)

        self.interval = interval
        self.num_images = num_images
        self.indices = indices
        self.points = points
        self.tolerance = tolerance
        self.min_area = min_area
        self.ignore_index = ignore_index
        self.backend_args = backend_args
        self._last_step = 0
        self._said_no_truth = False

    def before_train(self, runner: Runner) -> None:
        """Choose the images."""
        if runner.val_loop is None:
            raise ValueError(
                'Expected a `val_dataloader`, whose images '
                'BCKDVisualizationHook draws, but got none. Add it to the '
                'config, or remove the hook.'
            )
        dataset = runner.val_dataloader.dataset
        if self.ignore_index is None:
            self.ignore_index = getattr(dataset, 'ignore_index', 255)
        length = len(dataset)
        if self.indices is None:
            count = self.num_images or min(3, length)
            if count > length:
                raise ValueError(
                    f'Expected a validation set of at least num_images='
                    f'{self.num_images} images for BCKDVisualizationHook, but '
                    f'got {length}. Ask for fewer.'
                )
            # The middles of as many equal parts.
            self.indices = [
                (2 * i + 1) * length // (2 * count) for i in range(count)
            ]
        for index in self.indices:
            if not 0 <= index < length:
                raise ValueError(
                    'Expected `indices` of BCKDVisualizationHook from 0 to '
                    f'{length - 1}, the images of the validation set, but '
                    f'got {index}.'
                )

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Draw every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            self._last_step = runner.iter + 1
            self._draw_images(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Draw the end, unless that has just been done."""
        if runner.iter > self._last_step:
            self._draw_images(runner, runner.iter)

    def _draw_images(self, runner: Runner, step: int) -> None:
        model = unwrapped_model(runner)
        dataloader = runner.val_dataloader
        with _undisturbed(model):
            for index in self.indices:
                batch = dataloader.collate_fn([dataloader.dataset[index]])
                # Every process computes, since losses may communicate.
                sample = model.val_step(batch)[0]
                parts = self._distillation(model, batch)
                if is_main_process():
                    name = osp.basename(sample.img_path)
                    figure = draw_distillation(
                        self._image(sample),
                        f'{name}, iteration {step}',
                        semantics=self._semantics(
                            sample, dataloader.dataset.metainfo
                        ),
                        **parts,
                    )
                    runner.visualizer.add_image(
                        f'bckd_{index}_{osp.splitext(name)[0]}', figure, step
                    )

    def _image(self, sample: BaseDataElement) -> np.ndarray:
        content = fileio.get(sample.img_path, backend_args=self.backend_args)
        return mmcv.imfrombytes(content, channel_order='rgb')

    def _semantics(
        self, sample: BaseDataElement, metainfo: dict
    ) -> Semantics | None:
        if 'pred_sem_seg' not in sample:
            return None
        if 'gt_sem_seg' not in sample:
            self._say_no_truth()
        truth, prediction = (
            sample.get(name).data[0].cpu().numpy().astype(np.int64)
            if name in sample
            else None
            for name in ('gt_sem_seg', 'pred_sem_seg')
        )
        return Semantics(
            truth,
            prediction,
            classes=metainfo['classes'],
            palette=metainfo['palette'],
            tolerance=self.tolerance,
            min_area=self.min_area,
            ignore_index=self.ignore_index,
        )

    def _distillation(self, model: BaseModel, batch: dict) -> dict:
        """The parts of the figure that the losses of distillation give."""
        boundary_loss = _first(
            model, (BoundaryAffinityLoss, SemanticAffinityLoss)
        )
        context_loss = _first(model, ContextRelationLoss)
        if boundary_loss is context_loss is None:
            return {}
        data = model.data_preprocessor(batch, False)
        padded = data['inputs'].shape[-2:]
        sample = data['data_samples'][0]
        ignore_index = getattr(
            boundary_loss, 'ignore_index', self.ignore_index
        )
        data['data_samples'] = [fit_truth(sample, padded, ignore_index)]
        absent = recorders_without_truth(model.distiller, sample)
        if absent:
            self._say_no_truth()
        inputs = loss_inputs(
            model,
            data,
            [boundary_loss, context_loss],
            absent + recorders_of_boxes(model.distiller),
        )
        coverage = (
            padded[0] / sample.img_shape[0],
            padded[1] / sample.img_shape[1],
        )

        parts = dict(coverage=coverage)
        if boundary_loss in inputs:
            parts['boundary'] = _boundary(
                boundary_loss,
                *inputs[boundary_loss],
                data['data_samples'][0].get('gt_sem_seg'),
                ignore_index,
            )
        if context_loss in inputs:
            student, teacher = (
                maps if isinstance(maps, Tensor) else maps[0]
                for maps in inputs[context_loss]
            )
            rows = relation_rows(
                student,
                teacher,
                [(y / coverage[0], x / coverage[1]) for y, x in self.points],
                tau=context_loss.tau,
                exclude_self=context_loss.exclude_self,
                center=context_loss.center,
            )
            parts['relations'] = Relations(
                *(_array(r[0]) for r in rows), self.points
            )
        return parts

    def _say_no_truth(self) -> None:
        if not self._said_no_truth:
            self._said_no_truth = True
            print_log(
                'BCKDVisualizationHook leaves out the truth, which the '
                'validation pipeline does not load. Add LoadAnnotations to '
                'it, for instances with_mask=True, to have it drawn.',
                logger='current',
                level=logging.WARNING,
            )


def _boundary(
    loss: nn.Module,
    student: Tensor,
    teacher: Tensor | Sequence[Tensor],
    truth: PixelData | None,
    ignore_index: int,
) -> Boundary:
    """What a boundary loss compares, by what it is given."""
    if isinstance(loss, BoundaryAffinityLoss):
        edges = affinity_edges(
            student,
            teacher,
            source=loss.source,
            radius=loss.radius,
            tau=loss.tau,
            ignore_index=ignore_index,
        )
        return Boundary(
            _array(student.sigmoid()[0, 0]), _array(edges[0, 0]), loss.source
        )
    maps = [*semantic_affinity_edges(student, teacher, tau=loss.tau)]
    labels = None if truth is None else label_map(truth)
    if labels is not None:
        maps.append(
            affinity_edges(
                student[:, :1],
                labels,
                source='label',
                ignore_index=ignore_index,
            )
        )
    student, teacher, *true = (_array(edges[0, 0]) for edges in maps)
    return Boundary(student, teacher, 'mask', *true)


def _first(model: nn.Module, cls: type | tuple) -> nn.Module | None:
    return next((m for m in model.modules() if isinstance(m, cls)), None)


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, and nothing of it left behind."""
    training = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    forked = (
        torch.random.fork_rng([])
        if device.type == 'cpu'
        else torch.random.fork_rng([device], device_type=device.type)
    )
    model.eval()
    try:
        with forked, torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, mode in training.items():
            module.training = mode
