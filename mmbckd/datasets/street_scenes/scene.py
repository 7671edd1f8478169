"""What stands where in a street scene, and the scene itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .drawing import CLASSES, FAR, SUPERSAMPLING, Canvas
from .surroundings import (
    add_building,
    add_plant,
    add_railing,
    paint_backdrop,
    paint_ground,
    paint_sky,
)
from .things import add_car, add_person, add_pole, add_sign, add_wires

SPLITS = ('train', 'val')
MIN_SIZE = (48, 96)
MIN_INSTANCE_AREA = 12  # visible pixels; less is in the labels only


def scene_rng(
    seed: int, split: str, index: int, size: tuple[int, int]
) -> np.random.Generator:
    """The randomness of one scene of a data set.

    Args:
        seed (int): Seed of the data set, at least 0.
        split (str): ``'train'`` or ``'val'``.
        index (int): Position in the split, from 0.
        size (tuple[int, int]): Height and width of the images.

    Returns:
        numpy.random.Generator: Always in the same state for the same
        arguments.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f'Expected a split of {SPLITS}, but got {split!r}.')
    return np.random.default_rng([seed, SPLITS.index(split), index, *size])


def check_size(size: Sequence[int]) -> None:
    """Raise a ValueError unless scenes can be drawn in this size."""
    if len(size) != 2 or size[0] < MIN_SIZE[0] or size[1] < MIN_SIZE[1]:
        raise ValueError(
            f'Expected a size (height, width) of at least {MIN_SIZE}, but got '
            f'{tuple(size)}: below that, thin objects fill whole blocks. '
            'Choose a larger size.'
        )


def generate_scene(
    rng: int | np.random.Generator, height: int = 128, width: int = 256
) -> dict[str, Any]:
    """Draw one scene.

    Args:
        rng (int | numpy.random.Generator): Seed or source of all randomness.
        height (int): Height of the image, at least 48. Defaults to 128.
        width (int): Width of the image, at least 96. Defaults to 256.

    Returns:
        dict: With the keys

        - ``image``: uint8 array (height, width, 3), BGR as
          :func:`cv2.imread` gives it.
        - ``labels``: uint8 array (height, width), the index of each pixel's
          class. Every pixel has one.
        - ``instances``: list of dict(``category_id``: int, the label of a
          pole, sign, car or person; ``mask``: bool array (height, width), the
          visible part). Masks do not overlap. Instances of which fewer than
          :data:`MIN_INSTANCE_AREA` pixels are seen are left out, and wires
          are poles of no instance.

    Raises:
        ValueError: If the scene is too small.
    """
    check_size((height, width))
    canvas = Canvas(np.random.default_rng(rng), height, width)
    road = canvas.rng.uniform(3.4, 5.4)
    walks = [road + canvas.rng.uniform(1.5, 3.4) for _ in 'LR']
    _furnish(canvas, road, walks)
    paint_sky(canvas)
    paint_ground(canvas, road, walks)
    paint_backdrop(canvas)
    canvas.draw_objects()
    image = canvas.expose()

    centers = np.s_[SUPERSAMPLING // 2 :: SUPERSAMPLING]
    surface = canvas.surface[centers, centers]
    area = np.bincount(surface.ravel(), minlength=len(canvas.owner))
    instances = [
        dict(category_id=canvas.owner[i], mask=surface == i)
        for i in range(len(CLASSES), len(canvas.owner))
        if area[i] >= MIN_INSTANCE_AREA
    ]
    labels = canvas.labels()[centers, centers]
    return dict(image=image, labels=labels, instances=instances)


def _furnish(canvas: Canvas, road: float, walks: list[float]) -> None:
    """Decide what stands where; shadows are cast at once, all else is drawn
    later."""
    rng = canvas.rng
    for side, walk in zip((-1, 1), walks):
        _line_street(canvas, side, walk)
        _furnish_sidewalk(canvas, side, road, walk)

    side = rng.choice([-1, 1])
    x, start = side * (road + 0.2), rng.uniform(7, 14)
    add_railing(canvas, (x, start), (x, start + rng.uniform(5, 14)))
    if rng.random() < 0.3:
        add_person(canvas, rng.uniform(-road, road), rng.uniform(9, 25))
    if rng.random() < 0.3:
        x, z = rng.uniform(-3, 3), rng.uniform(20, 35)
        add_car(canvas, x, z, rng.choice([-1, 1]) * np.pi / 2)
    if rng.random() < 0.8:
        side = rng.choice([-1, 1])
        x = side * (road + 0.6)
        stops = np.arange(rng.uniform(3, 9), 60, rng.uniform(13, 19))
        for z in stops:
            add_pole(canvas, x, z, side, wired=True)
        add_wires(canvas, x, stops)


def _line_street(canvas: Canvas, side: int, walk: float) -> None:
    """Buildings and gardens along one side of the street."""
    rng = canvas.rng
    z = rng.uniform(2.5, 7)
    while z < 0.9 * FAR:
        far, edge = z + rng.uniform(6, 15), walk + rng.uniform(0, 0.6)
        if rng.random() < 0.66:
            add_building(canvas, side, edge, z, far)
        else:
            for _ in range(rng.integers(1, 4)):
                x = side * (edge + rng.uniform(2, 8))
                depth = max(9, rng.uniform(z, far))
                size = rng.uniform([1.8, 1.0], [3.2, 2.2])
                add_plant(canvas, x, depth, *size)
            for _ in range(rng.integers(2, 8)):
                x = side * (edge + rng.uniform(0.6, 5))
                depth, radius = rng.uniform(z, far), rng.uniform(0.4, 0.9)
                add_plant(canvas, x, depth, 0.0, radius)
            if rng.random() < 0.75 and far < 40:
                x = side * edge
                add_railing(canvas, (x, max(z, 3)), (x, far))
        z = far


def _furnish_sidewalk(
    canvas: Canvas, side: int, road: float, walk: float
) -> None:
    """Lamp posts, a tree, signs and people on one sidewalk, and the cars
    along it."""
    rng = canvas.rng
    curb = side * (road + 0.35)
    for z in np.arange(rng.uniform(8, 13), 45, rng.uniform(11, 17)):
        add_pole(canvas, curb, z, side, wired=False)
    if rng.random() < 0.6:
        z, size = rng.uniform(10, 28), rng.uniform([1.8, 0.8], [3.0, 1.6])
        add_plant(canvas, curb + side * 0.3, z, *size)
    for _ in range(rng.integers(1, 4)):
        add_sign(canvas, curb + side * 0.2, rng.uniform(8, 27))
    for z in rng.uniform(8, 32, rng.integers(2, 6)):
        add_person(canvas, side * rng.uniform(road + 0.4, walk - 0.3), z)
        if rng.random() < 0.4:
            x = side * rng.uniform(road + 0.4, walk - 0.3)
            add_person(canvas, x, z + rng.uniform(-0.4, 0.4))
    z = rng.uniform(8, 20)
    while z < 55 and rng.random() < 0.85:
        ahead = (side > 0) ^ (rng.random() < 0.15)
        lane = road - 1.1 if rng.random() < 0.6 else 0.45 * road
        add_car(canvas, side * lane, z, 0.0 if ahead else np.pi)
        z += rng.uniform(5.5, 16)
