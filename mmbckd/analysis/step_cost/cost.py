"""What a training costs, told from one step with random weights."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.config import Config
from mmseg.models import BaseSegmentor
from torch import nn

from .config import cost_key, gpus_of, has_masks, length_of, training_size
from .counting import build, networks, run_step, shapes_of_step


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
    model = build(config)
    student, teacher = networks(model)
    batch = config.train_dataloader.batch_size
    gpus = gpus_of(config)
    iterations, seen = length_of(config, batch * gpus, images)
    key = cost_key(config, batch_size, size, images)
    size = tuple(size or training_size(config, student))
    parameters = [each and _parameters(each) for each in (student, teacher)]

    made_up = (batch_size, size, has_masks(config))
    scope = config.default_scope
    meter = None
    if isinstance(student, BaseSegmentor):
        try:
            meter, backward = shapes_of_step(model, scope, *made_up)
        except RuntimeError:  # PyTorch's, where a shape depends on values
            model = build(config)
    if meter is None:
        meter, backward = run_step(model, scope, *made_up)
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


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
