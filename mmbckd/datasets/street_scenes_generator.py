"""A deterministic generator of street-like scenes, for the quickstart.

Every scene is a small perspective drawing: a bending road with sidewalks,
facades, trees, cars, people, and the thin things that make boundaries hard
(poles, wires, railings, signs, lane markings). Objects are painted from far
to near, so occlusion is right by construction, on a canvas
:data:`SUPERSAMPLING` times finer than the result: the image is its area
average (soft edges, as a camera gives), the labels are its sample at each
pixel's centre (crisp, never mixed).

The module needs NumPy and OpenCV only. All randomness comes from one
:class:`numpy.random.Generator` per scene, so a scene depends on its seed,
split, index and size and on nothing else.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import cv2
import numpy as np

CLASSES = (
    'sky',
    'building',
    'pole',
    'road',
    'sidewalk',
    'vegetation',
    'sign',
    'railing',
    'car',
    'person',
    'marking',
)
"""Class names; the label of a pixel is the index of its class here."""

PALETTE = [
    [86, 180, 233],
    [170, 170, 170],
    [0, 0, 0],
    [90, 90, 90],
    [204, 121, 167],
    [0, 158, 115],
    [240, 228, 66],
    [230, 159, 0],
    [0, 114, 178],
    [213, 94, 0],
    [255, 255, 255],
]
"""RGB per class: the Okabe-Ito colours, safe for colour-blind readers, plus
greys that differ in lightness."""

THING_CLASSES = ('pole', 'sign', 'car', 'person')
"""Classes with instances. A COCO category id is the class's label."""

SPLITS = ('train', 'val')
SUPERSAMPLING = 3  # odd, so that a sample lies at every pixel's centre
MIN_INSTANCE_AREA = 12  # visible pixels; less is in the labels only
MIN_SIZE = (48, 96)
VERSION = 1  # raise when the same seed would draw another picture

(
    SKY,
    BUILDING,
    POLE,
    ROAD,
    SIDEWALK,
    VEGETATION,
    SIGN,
    RAILING,
    CAR,
    PERSON,
    MARKING,
) = range(len(CLASSES))

# Grain of each class, fine and coarse, before a scene scales it: ranges
# overlap on purpose, for texture alone must not tell the class.
_FINE = np.float32(
    [0.01, 0.05, 0.05, 0.07, 0.06, 0.16, 0.03, 0.05, 0.03, 0.05, 0.06]
)
_COARSE = np.float32(
    [0.01, 0.05, 0.04, 0.04, 0.05, 0.10, 0.03, 0.05, 0.03, 0.05, 0.06]
)

_NEAR, _FAR = 2.0, 75.0  # metres in front of the camera
_INK = np.float32([0.09, 0.09, 0.11])
_GLASS = np.float32([0.16, 0.19, 0.24])

# Side views, rear to front, as (metres along, metres up). The first and the
# last four points are [sill, belt, screen foot, roof] of each end.
_CARS = (
    (
        [
            (0, 0.3),
            (0, 0.85),
            (0.55, 0.92),
            (1.05, 1.4),
            (2.5, 1.42),
            (3.2, 0.95),
            (4.2, 0.8),
            (4.25, 0.3),
        ],
        [(0.8, 0.94), (1.15, 1.3), (2.4, 1.33), (2.95, 0.95)],
    ),
    (
        [
            (0, 0.3),
            (0.02, 0.9),
            (0.1, 0.98),
            (0.4, 1.5),
            (2.3, 1.52),
            (2.9, 1.0),
            (3.7, 0.85),
            (3.75, 0.3),
        ],
        [(0.35, 1.0), (0.55, 1.4), (2.2, 1.42), (2.7, 1.0)],
    ),
    (
        [
            (0, 0.3),
            (0, 1.0),
            (0.02, 1.1),
            (0.1, 2.0),
            (3.5, 2.0),
            (4.2, 1.15),
            (4.8, 1.0),
            (4.85, 0.3),
        ],
        [(2.7, 1.15), (2.7, 1.8), (3.4, 1.8), (3.9, 1.15)],
    ),
)


@dataclass(frozen=True)
class _Camera:
    """A pinhole camera over a flat ground whose road bends sideways."""

    height: int
    width: int
    focal: float
    horizon: float
    centre: float
    eye: float
    offset: float
    bend: float

    def project(self, x: Any, y: Any, z: Any) -> np.ndarray:
        """World metres (right, up, ahead) to pixels, shape (..., 2)."""
        z = np.maximum(z, _NEAR)
        u = (
            self.centre
            + self.focal * (x - self.offset + self.bend * z * z) / z
        )
        v = self.horizon + self.focal * (self.eye - np.asarray(y)) / z
        return np.stack(np.broadcast_arrays(u, v), -1)

    def scale(self, z: float) -> float:
        """Pixels of one metre at depth ``z``."""
        return self.focal / max(z, _NEAR)


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]
) -> np.ndarray:
    """Gaussian noise of about ``cells`` bumps, blown up to ``shape``."""
    return cv2.resize(
        rng.standard_normal(cells, dtype=np.float32),
        shape[::-1],
        interpolation=cv2.INTER_CUBIC,
    )


def _disc(
    x: float, y: float, radius: float, corners: int = 12, turn: float = 0.0
) -> np.ndarray:
    """Corners of a regular polygon, shape (corners, 2)."""
    angles = turn + np.arange(corners) * (2 * np.pi / corners)
    return np.stack(
        [x + radius * np.sin(angles), y + radius * np.cos(angles)], -1
    )


class _Scene:
    """One scene under construction: a canvas, a camera, a sun."""

    def __init__(
        self, rng: np.random.Generator, height: int, width: int
    ) -> None:
        self.rng = rng
        h, w = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.cam = _Camera(
            height=h,
            width=w,
            focal=h * rng.uniform(1.55, 1.9),
            horizon=h * rng.uniform(0.38, 0.48),
            centre=w * rng.uniform(0.42, 0.58),
            eye=rng.uniform(1.5, 2.1),
            offset=rng.uniform(-0.5, 2.0),
            bend=rng.uniform(-0.004, 0.004),
        )
        self.color = np.zeros((h, w, 3), np.float32)
        # Surface ids: below len(CLASSES) a class without instances, above
        # it an instance whose class `owner` tells.
        self.surface = np.zeros((h, w), np.int32)
        self.depth = np.full((h, w), 4 * _FAR, np.float32)
        self.owner = list(range(len(CLASSES)))
        self.shadow = np.zeros((h, w), np.uint8)
        self.items: list[tuple[float, Callable[[], None]]] = []

        # Plain floats: a float64 of NumPy would widen whole canvases.
        self.sun = rng.uniform(0.3, 1.0) if rng.random() < 0.75 else 0.0
        azimuth = rng.uniform(0, 2 * np.pi)
        elevation = rng.uniform(0.35, 1.1)
        self.sun_flat = np.array([np.sin(azimuth), np.cos(azimuth)])
        self.reach = min(1 / np.tan(elevation), 2.5)

        self.road = rng.uniform(3.4, 5.4)
        self.walk = [self.road + rng.uniform(1.5, 3.4) for _ in 'LR']

    # -- tools ------------------------------------------------------------

    def light(self, x: float, z: float) -> float:
        """Brightness of an upright surface whose normal is (x, z)."""
        facing = max(0.0, x * self.sun_flat[0] + z * self.sun_flat[1])
        return 1 - 0.5 * self.sun + 0.65 * self.sun * facing

    def grey(self, low: float, high: float, tint: float = 0.04) -> np.ndarray:
        return np.float32(
            self.rng.uniform(low, high) + self.rng.uniform(-tint, tint, 3)
        )

    def new(self, label: int) -> int:
        """A fresh instance of a class; returns its surface id."""
        self.owner.append(label)
        return len(self.owner) - 1

    def paint(
        self,
        tool: Callable[..., Any],
        points: Any,
        color: Any,
        surface: int,
        z: float,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw one shape, given in canvas pixels, on all three planes."""
        points = np.clip(np.asarray(points, np.float64), -2e4, 2e4)
        points = [np.rint(points * 16).astype(np.int32)]
        for plane, value in (
            (self.color, [float(c) for c in color]),
            (self.surface, surface),
            (self.depth, z),
        ):
            tool(plane, points, *args, value, shift=4, **kwargs)

    def fill(self, points: Any, color: Any, surface: int, z: float) -> None:
        self.paint(cv2.fillPoly, points, color, surface, z)

    def stroke(
        self, points: Any, metres: float, color: Any, surface: int, z: float
    ) -> None:
        """A polyline, one result pixel wide at the least: thinner would
        break into dots in the labels."""
        width = max(SUPERSAMPLING, round(metres * self.cam.scale(z)))
        self.paint(
            cv2.polylines, points, color, surface, z, False, thickness=width
        )

    def flat(self, x: float, z: float) -> Callable[[Any], np.ndarray]:
        """A cut-out facing the camera at (x, z): maps (right, up)."""
        foot, scale = self.cam.project(x, 0.0, z), self.cam.scale(z)
        return lambda points: foot + np.asarray(points) * (scale, -scale)

    def cast(self, x: Any, z: Any, low: float, high: float) -> None:
        """Shadow on the ground of a body over (x, z), low to high."""
        x, z = np.broadcast_arrays(x, z)
        shift = -self.reach * np.array([[low], [high]])
        points = self.cam.project(
            (x + shift * self.sun_flat[0]).ravel(),
            0.0,
            (z + shift * self.sun_flat[1]).ravel(),
        )
        hull = cv2.convexHull(np.clip(points, -2e4, 2e4).astype(np.float32))
        cv2.fillConvexPoly(
            self.shadow, np.rint(hull * 16).astype(np.int32), 255, shift=4
        )

    def add(self, z: float, draw: Callable[[], None]) -> None:
        self.items.append((z, draw))

    # -- stuff ------------------------------------------------------------

    def paint_sky(self) -> None:
        rng, h, w = self.rng, int(self.cam.horizon) + 1, self.cam.width
        top = np.float32([0.35, 0.55, 0.85]) + rng.uniform(-0.12, 0.1)
        if self.sun == 0:
            top = self.grey(0.6, 0.85, 0.03)
        low = 0.4 * top + 0.6 * self.grey(0.75, 0.95)
        rise = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
        sky = top + (low - top) * rise
        cloud = _smooth_noise(rng, (h, w), (5, 6)) + 0.6 * _smooth_noise(
            rng, (h, w), (14, 16)
        )
        cloud = np.clip(cloud - rng.uniform(-0.2, 1.0), 0, 1)[..., None]
        self.color[:h] = sky + (self.grey(0.75, 0.95) - sky) * cloud * 0.8

    def paint_ground(self) -> None:
        """Everything below the horizon, from per-pixel world positions."""
        rng, cam = self.rng, self.cam
        first = int(cam.horizon) + 1
        v = np.arange(first, cam.height, dtype=np.float32)[:, None]
        z = np.minimum(cam.focal * cam.eye / (v - cam.horizon), 4 * _FAR)
        u = np.arange(cam.width, dtype=np.float32)[None]
        x = (u - cam.centre) * z / cam.focal + cam.offset - cam.bend * z * z

        left, right = self.walk
        road = np.abs(x) < self.road
        walk = ~road & (x > -left) & (x < right)
        label = np.full(x.shape, VEGETATION, np.uint8)
        label[walk], label[road] = SIDEWALK, ROAD

        # Paint is one result pixel wide at least, as every thin thing is.
        half = np.maximum(0.07, 0.5 * SUPERSAMPLING * z / cam.focal)
        period, phase = rng.uniform(4, 8), rng.uniform(0, 8)
        dashes = (z + phase) % period < 0.5 * period
        if rng.random() < 0.3:
            dashes |= True
        paint = (np.abs(x) < half) & dashes
        if rng.random() < 0.7:
            paint |= np.abs(np.abs(x) - (self.road - 0.45)) < half
        if rng.random() < 0.45:
            start = rng.uniform(8, 18)
            stripes = (x % 1.1 < 0.55) & (z > start) & (z < start + 3)
            paint |= stripes | ((np.abs(z - start + 1) < 0.15) & (x > 0))
        paint &= road & (z < 0.7 * _FAR)
        label[paint] = MARKING

        asphalt = self.grey(0.3, 0.52, 0.015)
        colors = np.zeros((len(CLASSES), 3), np.float32)
        colors[ROAD] = asphalt
        colors[SIDEWALK] = (
            asphalt + rng.uniform(0.03, 0.2) + rng.uniform(-0.04, 0.04, 3)
        )
        colors[VEGETATION] = np.float32([0.3, 0.36, 0.18]) * rng.uniform(
            0.7, 1.3, 3
        )
        colors[MARKING] = self.grey(0.65, 0.9, 0.03)
        color = colors[label]

        # A tile of grain laid on the ground, so that grain shrinks with
        # distance; repairs are darker patches of it.
        tile = _smooth_noise(rng, (256, 256), (128, 128))
        repair = _smooth_noise(rng, (256, 256), (24, 12)) > 1.2
        col = (x * 6).astype(np.int32) & 255
        row = np.broadcast_to((z * 6).astype(np.int32) & 255, col.shape)
        shade = 1 + 0.07 * tile[row, col] - 0.18 * repair[row, col] * road
        wear = rng.uniform(0.1, 0.35) * np.exp(
            -(((np.abs(np.abs(x) - 0.5 * self.road) - 0.8) / 0.35) ** 2)
        )
        shade -= wear * 0.4 * road
        slab = rng.uniform(0.6, 1.2)
        joint = ((x % slab < 0.05) | (z % slab < 0.05)) & (z < 22)
        shade -= 0.2 * (joint & walk)
        kerb = walk & (np.abs(x) < self.road + 0.18)
        shade += rng.uniform(-0.12, 0.2) * kerb
        color *= shade[..., None]

        dark = cv2.blur(self.shadow[first:], (5, 5)).astype(np.float32)
        color *= 1 - dark[..., None] / 255 * (0.62 * self.sun) * np.float32(
            [1.05, 1.0, 0.9]
        )
        self.color[first:], self.surface[first:] = color, label
        self.depth[first:] = z

    def backdrop(self) -> None:
        """A far line of hills or woods that closes the horizon."""
        w = self.cam.width
        foot = self.cam.project(0.0, 0.0, _FAR)[1]
        heights = _smooth_noise(self.rng, (1, 64), (1, 9))[0]
        tops = foot - self.cam.scale(_FAR) * np.clip(
            5 + 2.5 * heights + 0.8 * self.rng.standard_normal(64), 1, None
        )
        line = np.stack([np.linspace(-9, w + 9, 64), tops], -1)
        self.fill(
            np.vstack([[[-9, foot]], line, [[w + 9, foot]]]),
            np.float32([0.2, 0.28, 0.16]) * self.rng.uniform(0.8, 1.3),
            VEGETATION,
            _FAR,
        )

    def facade(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        height: float,
        style: dict[str, Any],
    ) -> None:
        """A wall between two ground points (x, z), with its windows."""
        cam, rng = self.cam, self.rng
        (ua, _), (ub, _) = cam.project(
            np.array([start[0], end[0]]), 0.0, np.array([start[1], end[1]])
        )
        za, zb = max(start[1], _NEAR), max(end[1], _NEAR)
        lo, hi = (
            max(0, int(np.ceil(min(ua, ub)))),
            min(cam.width, int(max(ua, ub)) + 1),
        )
        near = cam.scale(min(za, zb))
        top = max(0, int(cam.horizon - near * (height - cam.eye)))
        bottom = min(cam.height, int(cam.horizon + near * cam.eye) + 1)
        if lo >= hi or top >= bottom:
            return
        # Along a wall in perspective 1/z is linear in the column.
        t = ((np.arange(lo, hi) - ua) / (ub - ua)).astype(np.float32)[None]
        inverse = (1 - t) / za + t / zb
        length = float(np.hypot(start[0] - end[0], start[1] - end[1]))
        s = t / zb / inverse * length
        v = np.arange(top, bottom, dtype=np.float32)[:, None]
        y = cam.eye - (v - cam.horizon) / (inverse * cam.focal)
        inside = (y >= 0) & (y <= height)

        storey, bay = style['storey'], style['bay']
        floor = (y / storey).astype(np.int32)
        column = (s / bay).astype(np.int32)
        fy, fs = y / storey - floor, s / bay - column
        pane = (
            (fs > style['side'])
            & (fs < 1 - style['side'])
            & (fy > style['sill'])
            & (fy < 0.88)
            & (y < height - 0.4)
        )
        glass = rng.choice(
            [0.6, 1.0, 1.5, 3.2], (16, 16), p=[0.4, 0.3, 0.2, 0.1]
        )
        glass = glass.astype(np.float32)[floor & 15, column & 15]
        wall = 1 - 0.1 * style['lines'] * ((y % 0.3) < 0.07)
        wall = wall - 0.25 * (height - y < 0.35) + 0.1 * (fy < 0.06)
        color = wall[..., None] * style['wall']
        color = np.where(pane[..., None], glass[..., None] * _GLASS, color)
        if style['shop']:
            # Boards and round shop signs are part of the building: only
            # their place tells them from traffic signs.
            shop = (y < 0.75 * storey) & (fs > 0.08) & (fs < 0.92)
            color[shop & (y > 0.35)] = style['shop_glass']
            board = (y > 0.76 * storey) & (y < 0.98 * storey)
            color[board & inside] = style['board']
            round_ = ((fs - 0.5) * bay) ** 2 + (y - 1.35 * storey) ** 2 < 0.16
            color[round_ & (column % 2 == 0)] = style['board'][::-1]
        normal = np.array([-(end[1] - start[1]), end[0] - start[0]])
        normal = normal / max(length, 1e-6)
        middle = np.add(start, end) / 2 - (cam.offset, 0)
        normal *= -1.0 if normal @ middle > 0 else 1.0
        color *= self.light(*normal)

        window = np.s_[top:bottom, lo:hi]
        self.color[window][inside] = color[inside]
        self.surface[window][inside] = BUILDING
        self.depth[window][inside] = np.broadcast_to(
            1 / inverse, inside.shape
        )[inside]

    def add_building(
        self, side: int, x: float, near: float, far: float
    ) -> None:
        rng = self.rng
        height = rng.uniform(4.5, 16)
        hue = rng.choice([0, 1, 2, 3], p=[0.4, 0.25, 0.2, 0.15])
        wall = (
            self.grey(0.3, 0.6),
            self.grey(0.55, 0.8),
            np.float32([0.52, 0.34, 0.26]) * rng.uniform(0.7, 1.2),
            np.float32([0.6, 0.52, 0.36]) * rng.uniform(0.8, 1.2),
        )[hue]
        style = dict(
            wall=wall,
            storey=rng.uniform(2.8, 3.8),
            bay=rng.uniform(1.6, 4.0),
            side=rng.uniform(0.06, 0.34),
            sill=rng.uniform(0.15, 0.5),
            lines=rng.random() < 0.5,
            shop=rng.random() < 0.55,
            shop_glass=_GLASS * rng.uniform(0.5, 2.0),
            board=np.float32(rng.uniform(0.1, 0.9, 3)),
        )
        inner, outer = side * x, side * (x + rng.uniform(8, 14))
        self.cast(
            [inner, outer, inner, outer], [near, near, far, far], 0, height
        )

        def draw() -> None:
            self.facade((outer, near), (inner, near), height, style)
            self.facade((inner, near), (inner, far), height, style)

        self.add(far, draw)

    def add_plant(
        self, x: float, z: float, trunk: float, radius: float
    ) -> None:
        """A tree, or with no trunk a bush. The trunk is vegetation too,
        however much it looks like a pole."""
        rng = self.rng
        self.cast(x + np.array([-0.1, 0.1]), z, 0, trunk + radius)
        ring = 0.8 * radius * _disc(0, 0, 1)
        self.cast(x + ring[:, 0], z + ring[:, 1], trunk, trunk + radius)

        def draw() -> None:
            place = self.flat(x, z)
            lean, width = rng.uniform(-0.2, 0.2), rng.uniform(0.07, 0.13)
            if trunk:
                self.fill(
                    place(
                        [
                            (-width, 0),
                            (lean - width, trunk + 0.5),
                            (lean + width, trunk + 0.5),
                            (width, 0),
                        ]
                    ),
                    self.grey(0.18, 0.34) * self.light(0, -1),
                    VEGETATION,
                    z,
                )
            leaf = np.float32([0.26, 0.36, 0.14]) * rng.uniform(0.6, 1.25, 3)
            # Leaves thin out towards the rim, which leaves gaps there.
            n = 70 if trunk else 20
            angle, r = rng.uniform(0, 2 * np.pi, n), rng.random(n) ** 0.6
            dx, dy = radius * r * np.cos(angle), radius * r * np.sin(angle)
            size = radius * rng.uniform(0.09, 0.3, n) * (1.15 - 0.5 * r)
            side = (0.8 * self.sun_flat[0] * dx + dy) / radius
            tone = (1 + 0.3 * (0.3 + self.sun) * side) * rng.uniform(
                0.8, 1.2, n
            )
            for i in np.argsort(tone, kind='stable'):
                blob = _disc(
                    lean + dx[i],
                    trunk + 0.8 * radius + dy[i],
                    size[i],
                    rng.integers(5, 8),
                    angle[i],
                )
                self.fill(place(blob), leaf * tone[i], VEGETATION, z)

        self.add(z, draw)

    def add_railing(
        self, start: tuple[float, float], end: tuple[float, float]
    ) -> None:
        """A see-through fence, in short panels so that each of them sorts
        rightly among the things before and behind it."""
        rng = self.rng
        height, gap = rng.uniform(0.9, 1.3), rng.uniform(0.35, 0.7)
        color = self.grey(0.15, 0.75, 0.08) * self.light(-start[0], -1)
        rails = [height, 0.15] + [0.5 * height] * (rng.random() < 0.4)
        ends = np.linspace(
            start,
            end,
            max(
                2,
                int(np.hypot(end[0] - start[0], end[1] - start[1]) / 2.5) + 1,
            ),
        )

        def draw(a: np.ndarray, b: np.ndarray) -> None:
            z = float(a[1] + b[1]) / 2
            # Bars closer than three pixels would melt into a wall.
            seen = np.ptp(
                self.cam.project(
                    np.array([a[0], b[0]]), 0.0, np.array([a[1], b[1]])
                )[:, 0]
            )
            count = max(
                1,
                int(min(np.hypot(*(b - a)) / gap, seen / (3 * SUPERSAMPLING))),
            )
            for x0, z0 in np.linspace(a, b, count, endpoint=False):
                bar = self.cam.project(x0, np.array([0, height]), z0)
                self.stroke(bar, 0.03, color, RAILING, float(z0))
            for y in rails:
                rail = self.cam.project(
                    np.array([a[0], b[0]]), y, np.array([a[1], b[1]])
                )
                self.stroke(rail, 0.04, color, RAILING, z)

        for a, b in zip(ends[:-1], ends[1:]):
            self.cast([a[0], b[0]], [a[1], b[1]], height - 0.1, height)
            self.add(float(a[1] + b[1]) / 2, lambda a=a, b=b: draw(a, b))

    # -- things -----------------------------------------------------------

    def post(
        self,
        x: float,
        z: float,
        height: float,
        width: float,
        color: np.ndarray,
        surface: int,
    ) -> None:
        half = max(width / 2, 0.5 * SUPERSAMPLING / self.cam.scale(z))
        self.fill(
            self.flat(x, z)(
                [(-half, 0), (-half, height), (half, height), (half, 0)]
            ),
            color,
            surface,
            z,
        )

    def add_pole(self, x: float, z: float, side: int, wired: bool) -> None:
        """A lamp post, or a mast that carries wires."""
        rng = self.rng
        height = 6.2 if wired else rng.uniform(4.0, 6.5)
        self.cast(x + np.array([-0.06, 0.06]), z, 0, height)

        def draw() -> None:
            surface = self.new(POLE)
            color = self.grey(0.12, 0.6) * self.light(0, -1)
            if wired:
                color = np.float32([0.3, 0.24, 0.18]) * rng.uniform(0.7, 1.3)
            self.post(x, z, height, rng.uniform(0.08, 0.12), color, surface)
            reach = 0.9 if wired else rng.uniform(0.8, 1.8)
            place = self.flat(x, z)
            if wired:
                arm = [(-reach, height - 0.3), (reach, height - 0.3)]
            else:
                u = -side * reach
                arm = [(0, height), (u, height)]
                self.fill(
                    place(
                        [
                            (u - 0.3, height - 0.1),
                            (u - 0.3, height + 0.06),
                            (u + 0.3, height + 0.06),
                            (u + 0.3, height - 0.1),
                        ]
                    ),
                    color * 1.3,
                    surface,
                    z,
                )
            self.stroke(place(arm), 0.06, color, surface, z)

        self.add(z, draw)

    def add_wires(self, x: float, stops: Sequence[float]) -> None:
        """Sagging wires; class pole, but of no instance."""
        rng = self.rng
        color = self.grey(0.08, 0.25)
        t = np.linspace(0, 1, 9)
        lines = [(o, rng.uniform(0.2, 0.7)) for o in (-0.8, 0.8)]
        for near, far in zip(stops[:-1], stops[1:]):

            def draw(near: float = near, far: float = far) -> None:
                for shift, sag in lines:
                    points = self.cam.project(
                        x + shift,
                        5.95 - sag * 4 * t * (1 - t),
                        near + (far - near) * t,
                    )
                    self.stroke(points, 0.02, color, POLE, (near + far) / 2)

            self.add((near + far) / 2, draw)

    def add_sign(self, x: float, z: float) -> None:
        rng = self.rng
        top = rng.uniform(2.1, 3.0)
        self.cast(x + np.array([-0.04, 0.04]), z, 0, top)

        def draw() -> None:
            light = self.light(0, -1)
            self.post(
                x, z, top, 0.07, self.grey(0.3, 0.65) * light, self.new(POLE)
            )
            place = self.flat(x, z)
            y = top + 0.1
            for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
                surface, size = self.new(SIGN), rng.uniform(0.26, 0.42)
                corners, turn = [
                    (12, 0.0),
                    (3, 0.0),
                    (3, np.pi),
                    (4, np.pi / 4),
                    (8, np.pi / 8),
                    (4, 0.0),
                ][rng.integers(6)]
                rim, face = [
                    ([0.75, 0.1, 0.1], [0.9, 0.88, 0.85]),
                    ([0.1, 0.25, 0.65], [0.12, 0.3, 0.72]),
                    ([0.9, 0.9, 0.88], [0.1, 0.4, 0.25]),
                    ([0.2, 0.2, 0.2], [0.9, 0.72, 0.15]),
                    ([0.75, 0.1, 0.1], [0.75, 0.12, 0.12]),
                    ([0.45, 0.45, 0.46], [0.5, 0.5, 0.5]),
                ][rng.integers(6)]
                for share, tint in ((1.0, rim), (0.72, face)):
                    self.fill(
                        place(_disc(0, y, share * size, corners, turn)),
                        np.float32(tint) * light,
                        surface,
                        z,
                    )
                ink = _INK if rng.random() < 0.5 else [0.9, 0.9, 0.9]
                if face[0] != face[1]:
                    bar = 0.32 * size
                    self.fill(
                        place(
                            [
                                (-bar, y - 0.1),
                                (-bar, y + 0.06),
                                (bar, y + 0.1),
                                (bar, y - 0.06),
                            ]
                        ),
                        np.float32(ink) * light,
                        surface,
                        z,
                    )
                y -= 2 * size + 0.05

        self.add(z, draw)

    def add_car(self, x: float, z: float, heading: float) -> None:
        rng, cam = self.rng, self.cam
        profile, glass = _CARS[rng.choice(len(_CARS), p=[0.45, 0.4, 0.15])]
        profile, glass = np.array(profile), np.array(glass)
        length, half = profile[-1, 0], rng.uniform(0.82, 0.95)
        paint = (
            self.grey(0.08, 0.25),
            self.grey(0.3, 0.55),
            self.grey(0.7, 0.9),
            np.float32(rng.uniform(0.05, 0.65, 3)),
        )[rng.integers(4)]
        cos, sin = np.cos(heading), np.sin(heading)

        def world(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
            a = np.asarray(a) - length / 2
            return x + a * sin + b * cos, z + a * cos - b * sin

        def place(a: Any, b: Any, y: Any) -> np.ndarray:
            # Cars are narrower above the belt.
            b = b * (1 - 0.2 * np.clip((np.asarray(y) - 0.95) / 0.5, 0, 1))
            wx, wz = world(a, b)
            return cam.project(wx, y, wz)

        def light(a: float, b: float) -> float:
            return self.light(a * sin + b * cos, a * cos - b * sin)

        self.cast(
            *world(
                [0, 0, length, length], np.array([-half, half, -half, half])
            ),
            0,
            1.2,
        )

        def draw() -> None:
            surface = self.new(CAR)
            a, y = profile.T
            both = np.vstack([place(a, -half, y), place(a, half, y)])
            hull = cv2.convexHull(both.astype(np.float32))[:, 0]
            self.fill(hull, paint * 1.05, surface, z)
            sight = np.array([cam.offset - x - cam.bend * z * z, -z])
            b = half if sight @ (cos, -sin) > 0 else -half
            rear = sight @ (sin, cos) < 0
            for wheel in (0.75, length - 0.8):
                ring = _disc(wheel, 0.3, 0.31)
                self.fill(place(ring[:, 0], b, ring[:, 1]), _INK, surface, z)
            self.fill(place(a, b, y), paint * light(0, np.sign(b)), surface, z)
            self.fill(
                place(glass[:, 0], b, glass[:, 1]), _GLASS * 0.9, surface, z
            )
            for wheel in (0.75, length - 0.8):
                for radius, tint in ((0.31, _INK), (0.17, [0.4, 0.4, 0.42])):
                    ring = _disc(wheel, 0.31, radius)
                    self.fill(
                        place(ring[:, 0], b, ring[:, 1]), tint, surface, z
                    )
            end = profile[:4] if rear else profile[:-5:-1]

            def quad(
                lo: Any, hi: Any, left: float, right: float, tint: Any
            ) -> None:
                points = np.array([lo, lo, hi, hi])
                across = half * np.array([left, right, right, left])
                self.fill(
                    place(points[:, 0], across, points[:, 1]), tint, surface, z
                )

            sill, belt, foot, roof = end
            body = paint * light(-1.0 if rear else 1.0, 0)
            tyre = (sill[0], 0.0)
            quad(tyre, sill, -0.95, -0.65, _INK)
            quad(tyre, sill, 0.65, 0.95, _INK)
            quad(sill, belt, -1, 1, body)
            quad(foot, 0.15 * foot + 0.85 * roof, -0.9, 0.9, _GLASS * 1.2)
            lamp = [0.6, 0.08, 0.06] if rear else [0.9, 0.88, 0.75]
            for left in (-0.95, 0.6):
                quad((belt[0], 0.62), (belt[0], 0.78), left, left + 0.35, lamp)
            quad((sill[0], 0.42), (sill[0], 0.52), -0.3, 0.3, [0.8, 0.8, 0.75])

        self.add(z, draw)

    def add_person(self, x: float, z: float) -> None:
        rng = self.rng
        tall = rng.uniform(1.5, 1.9)
        self.cast(x + np.array([-0.2, 0.2]), z, 0, tall)

        def draw() -> None:
            surface, place = self.new(PERSON), self.flat(x, z)
            light = self.light(0, -1)
            coat = np.float32(rng.uniform(0.06, 0.75, 3)) * light
            if rng.random() < 0.5:
                coat = self.grey(0.1, 0.6) * light
            legs = self.grey(0.08, 0.4, 0.08) * light
            skin = (
                np.float32([0.75, 0.56, 0.44]) * rng.uniform(0.4, 1.1) * light
            )
            stride, swing = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)

            def part(points: Any, tint: Any) -> None:
                self.fill(place(np.array(points) * tall), tint, surface, z)

            for foot in (-0.04 + stride / 2, 0.04 - stride / 2):
                part(
                    [
                        (foot - 0.035, 0),
                        (-0.07, 0.5),
                        (0.07, 0.5),
                        (foot + 0.035, 0),
                    ],
                    legs * (0.85 + foot),
                )
            for hand, shoulder in (
                (-0.15 + swing, -0.11),
                (0.15 + swing, 0.11),
            ):
                part(
                    [
                        (shoulder - 0.03, 0.8),
                        (hand - 0.025, 0.45),
                        (hand + 0.025, 0.45),
                        (shoulder + 0.03, 0.8),
                    ],
                    coat * 0.85,
                )
            hip = rng.uniform(0.08, 0.12)
            hem = rng.uniform(0.3, 0.48)
            part(
                [
                    (-hip, hem),
                    (-0.11, 0.8),
                    (-0.04, 0.84),
                    (0.04, 0.84),
                    (0.11, 0.8),
                    (hip, hem),
                ],
                coat,
            )
            part(
                [(-0.02, 0.8), (-0.02, 0.88), (0.02, 0.88), (0.02, 0.8)], skin
            )
            part(_disc(0, 0.925, 0.06, 10), self.grey(0.05, 0.4))
            part(_disc(0, 0.91, 0.048, 10), skin)
            if rng.random() < 0.3:
                part(
                    [(0.1, 0.4), (0.1, 0.6), (0.19, 0.6), (0.19, 0.4)],
                    self.grey(0.1, 0.6, 0.15),
                )

        self.add(z, draw)

    # -- the street -------------------------------------------------------

    def furnish(self) -> None:
        """Decide what stands where."""
        rng = self.rng
        for side, walk in zip((-1, 1), self.walk):
            z = rng.uniform(2.5, 7)
            while z < 0.9 * _FAR:
                far = z + rng.uniform(6, 15)
                edge = walk + rng.uniform(0, 0.6)
                if rng.random() < 0.66:
                    self.add_building(side, edge, z, far)
                else:
                    for _ in range(rng.integers(1, 4)):
                        self.add_plant(
                            side * (edge + rng.uniform(2, 8)),
                            max(9, rng.uniform(z, far)),
                            *rng.uniform([1.8, 1.0], [3.2, 2.2]),
                        )
                    for _ in range(rng.integers(2, 8)):
                        self.add_plant(
                            side * (edge + rng.uniform(0.6, 5)),
                            rng.uniform(z, far),
                            0.0,
                            rng.uniform(0.4, 0.9),
                        )
                    if rng.random() < 0.75 and far < 40:
                        self.add_railing(
                            (side * edge, max(z, 3)), (side * edge, far)
                        )
                z = far
            kerb = side * (self.road + 0.35)
            for z in np.arange(rng.uniform(8, 13), 45, rng.uniform(11, 17)):
                self.add_pole(kerb, z, side, False)
            if rng.random() < 0.6:
                self.add_plant(
                    kerb + side * 0.3,
                    rng.uniform(10, 28),
                    *rng.uniform([1.8, 0.8], [3.0, 1.6]),
                )
            for _ in range(rng.integers(1, 4)):
                self.add_sign(kerb + side * 0.2, rng.uniform(8, 27))
            for z in rng.uniform(8, 32, rng.integers(2, 6)):
                self.add_person(
                    side * rng.uniform(self.road + 0.4, walk - 0.3), z
                )
                if rng.random() < 0.4:
                    self.add_person(
                        side * rng.uniform(self.road + 0.4, walk - 0.3),
                        z + rng.uniform(-0.4, 0.4),
                    )
            z = rng.uniform(8, 20)
            while z < 55 and rng.random() < 0.85:
                heading = 0.0 if (side > 0) ^ (rng.random() < 0.15) else np.pi
                lane = (
                    self.road - 1.1
                    if rng.random() < 0.6
                    else (0.45 * self.road)
                )
                self.add_car(side * lane, z, heading)
                z += rng.uniform(5.5, 16)

        side = rng.choice([-1, 1])
        start = rng.uniform(7, 14)
        self.add_railing(
            (side * (self.road + 0.2), start),
            (side * (self.road + 0.2), start + rng.uniform(5, 14)),
        )
        if rng.random() < 0.3:
            self.add_person(
                rng.uniform(-self.road, self.road), rng.uniform(9, 25)
            )
        if rng.random() < 0.3:
            self.add_car(
                rng.uniform(-3, 3),
                rng.uniform(20, 35),
                rng.choice([-1, 1]) * np.pi / 2,
            )
        if rng.random() < 0.8:
            side = rng.choice([-1, 1])
            x = side * (self.road + 0.6)
            stops = np.arange(rng.uniform(3, 9), 60, rng.uniform(13, 19))
            for z in stops:
                self.add_pole(x, z, side, True)
            self.add_wires(x, stops)

    def expose(self) -> np.ndarray:
        """Grain, haze, light and sensor; returns (h, w, 3) uint8 BGR."""
        rng, shape = self.rng, self.surface.shape
        label = np.asarray(self.owner, np.uint8)[self.surface]
        amount = rng.uniform(0.5, 1.5, (2, len(CLASSES))).astype(np.float32)
        fine = rng.standard_normal(
            (shape[0] // 2 + 1, shape[1] // 2 + 1), dtype=np.float32
        )
        fine = fine.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]
        coarse = _smooth_noise(rng, shape, (shape[0] // 12, shape[1] // 12))
        grain = 1 + (amount[0] * _FINE)[label] * fine
        grain += (amount[1] * _COARSE)[label] * coarse
        grain *= 1 + 0.09 * _smooth_noise(rng, shape, (3, 5))
        color = self.color * grain[..., None]

        thick = rng.uniform(0.004, 0.02) if rng.random() < 0.5 else 0.001
        haze = 1 - np.exp(-thick * self.depth)
        haze[label == SKY] *= 0.4
        color += (self.grey(0.65, 0.85, 0.03) - color) * haze[..., None]

        small = cv2.resize(
            color,
            (shape[1] // SUPERSAMPLING, shape[0] // SUPERSAMPLING),
            interpolation=cv2.INTER_AREA,
        )
        sigma = rng.uniform(0.2, 0.65)
        small = cv2.GaussianBlur(small, (3, 3), sigma)
        warm = rng.uniform(-0.07, 0.09)
        cast = np.float32([1 + warm, 1, 1 - warm])
        small = np.clip(small * cast * rng.uniform(0.85, 1.3), 0, 1)
        small **= np.float32(rng.uniform(0.8, 1.15))
        small += rng.uniform(0.008, 0.03) * rng.standard_normal(
            small.shape, dtype=np.float32
        )
        return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)[..., ::-1]

    def draw(self) -> dict[str, Any]:
        self.furnish()
        self.paint_sky()
        self.paint_ground()
        self.backdrop()
        for _, draw in sorted(self.items, key=lambda item: -item[0]):
            draw()
        image = np.ascontiguousarray(self.expose())

        centre = SUPERSAMPLING // 2
        surface = self.surface[centre::SUPERSAMPLING, centre::SUPERSAMPLING]
        labels = np.asarray(self.owner, np.uint8)[surface]
        area = np.bincount(surface.ravel(), minlength=len(self.owner))
        instances = [
            dict(category_id=self.owner[i], mask=surface == i)
            for i in range(len(CLASSES), len(self.owner))
            if area[i] >= MIN_INSTANCE_AREA
        ]
        return dict(image=image, labels=labels, instances=instances)


def scene_rng(
    seed: int, split: str, index: int, size: tuple[int, int]
) -> np.random.Generator:
    """The randomness of one scene of a data set.

    Args:
        seed (int): Seed of the data set, at least 0.
        split (str): One of :data:`SPLITS`.
        index (int): Position in the split, from 0.
        size (tuple[int, int]): Height and width of the images.

    Returns:
        numpy.random.Generator: Always in the same state for the same
        arguments.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f'Expected a split of {SPLITS}, got {split!r}.')
    return np.random.default_rng([seed, SPLITS.index(split), index, *size])


def generate_scene(
    rng: int | np.random.Generator, height: int = 128, width: int = 256
) -> dict[str, Any]:
    """Draw one scene.

    Args:
        rng (int or numpy.random.Generator): Seed or source of randomness.
        height (int): Height of the image, at least 48. Defaults to 128.
        width (int): Width of the image, at least 96. Defaults to 256.

    Returns:
        dict: With the keys

        - ``image``: uint8 array (height, width, 3), BGR as
          :func:`cv2.imread` gives it.
        - ``labels``: uint8 array (height, width), indices into
          :data:`CLASSES`. Every pixel has a class.
        - ``instances``: list of dict(``category_id``: int, the label of one
          of :data:`THING_CLASSES`; ``mask``: bool array (height, width), the
          visible part), from far to near. Masks do not overlap. Instances
          of which less than :data:`MIN_INSTANCE_AREA` pixels are seen are
          left out, and wires are poles of no instance.

    Raises:
        ValueError: If the scene is too small.
    """
    _check_size((height, width))
    return _Scene(np.random.default_rng(rng), height, width).draw()


def _check_size(size: Sequence[int]) -> None:
    if len(size) != 2 or size[0] < MIN_SIZE[0] or size[1] < MIN_SIZE[1]:
        raise ValueError(
            f'Expected a size (height, width) of at least {MIN_SIZE}, got '
            f'{tuple(size)}: below that thin objects fill whole blocks. '
            'Choose a larger size.'
        )


# -- on disk --------------------------------------------------------------

_META, _UNFINISHED = 'meta.json', 'meta.json.unfinished'


def _rle(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return dict(size=list(mask.shape), counts=[0] * bool(flat[0]) + counts)


def _annotation(
    instance: dict[str, Any], number: int, image_id: int
) -> dict[str, Any]:
    mask = instance['mask']
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return dict(
        id=number,
        image_id=image_id,
        category_id=instance['category_id'],
        segmentation=_rle(mask),
        area=int(mask.sum()),
        bbox=[x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        iscrowd=0,
    )


def _write_image(path: Path, image: np.ndarray) -> None:
    # Weak compression: noise does not shrink, and this is twice as fast.
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 2]):
        raise OSError(
            f'Could not write {path}: check the free space and the '
            'permissions there.'
        )


def _is_done(root: Path, meta: dict[str, Any]) -> bool:
    """Whether ``root`` holds this set; False if it is ours to fill.

    Raises:
        NotADirectoryError: If ``root`` is no folder.
        FileExistsError: If it holds anything else.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise NotADirectoryError(
            f'Expected a folder for the street scenes, but {root} is a file: '
            'choose another path.'
        )
    if (root / _UNFINISHED).exists():
        return False
    advice = 'Choose another folder, or empty this one.'
    if not (root / _META).exists():
        found = sorted(path.name for path in root.iterdir())
        if found:
            raise FileExistsError(
                f'Expected {root} to be empty or to hold street scenes, but '
                f'it has no {_META} and holds {", ".join(found[:5])}'
                f'{", ..." if len(found) > 5 else ""}. {advice}'
            )
        return False
    try:
        found = json.loads((root / _META).read_text())
    except ValueError:
        found = None
    if found != meta:
        raise FileExistsError(
            f'Expected the street scenes {meta} in {root}, but its {_META} '
            f'says {found}. {advice}'
        )
    # A set from which files went missing is made again.
    return all(
        sum(1 for _ in (root / kind / split).glob('*.png')) == meta[split]
        and (root / 'annotations' / f'instances_{split}.json').exists()
        for kind in ('images', 'annotations')
        for split in SPLITS
    )


def _write_split(
    root: Path,
    split: str,
    count: int,
    size: tuple[int, int],
    seed: int,
    step: Callable[[], None],
) -> None:
    for kind in ('images', 'annotations'):
        (root / kind / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        scene = generate_scene(scene_rng(seed, split, index, size), *size)
        name = f'{index:05d}.png'
        _write_image(root / 'images' / split / name, scene['image'])
        _write_image(root / 'annotations' / split / name, scene['labels'])
        images.append(
            dict(id=index + 1, file_name=name, height=size[0], width=size[1])
        )
        for instance in scene['instances']:
            annotations.append(
                _annotation(instance, len(annotations) + 1, index + 1)
            )
        step()
    categories = [
        dict(id=CLASSES.index(name), name=name) for name in THING_CLASSES
    ]
    (root / 'annotations' / f'instances_{split}.json').write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=categories)
        )
    )


def write_dataset(
    root: Union[str, 'os.PathLike[str]'],
    num_train: int = 240,
    num_val: int = 60,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write a data set of street scenes, unless it is there already.

    The layout is::

        root/images/{train,val}/00000.png              BGR images
        root/annotations/{train,val}/00000.png         labels, one channel
        root/annotations/instances_{train,val}.json    COCO instances
        root/meta.json                                 what the set is

    ``meta.json`` comes last, so that an interrupted run is known as such and
    is made again. Scene ``i`` of a split does not depend on how many scenes
    are asked for.

    Args:
        root (str or os.PathLike): Folder to write; must be new, empty, or
            hold this very set, finished or not.
        num_train (int): Training scenes, at least 1. Defaults to 240.
        num_val (int): Validation scenes, at least 1. Defaults to 60.
        size (tuple[int, int]): Height and width. Defaults to (128, 256).
        seed (int): Seed of the set, at least 0. Defaults to 0.
        progress (callable, optional): Called with the number of scenes
            written and of all scenes after each one. Defaults to None.

    Returns:
        bool: True if the set was written, False if it was there.

    Raises:
        ValueError: If a count, the size or the seed is too small.
        FileExistsError: If ``root`` holds something else, which includes
            street scenes made with other arguments.
        NotADirectoryError: If ``root`` is a file.
        OSError: If an image cannot be written.
    """
    for name, value, least in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('seed', seed, 0),
    ):
        if value < least:
            raise ValueError(
                f'Expected {name} of at least {least}, got {value}.'
            )
    _check_size(size)
    root = Path(root)
    counts = dict(train=int(num_train), val=int(num_val))
    size = (int(size[0]), int(size[1]))
    meta = dict(
        kind='street scenes',
        version=VERSION,
        seed=int(seed),
        size=list(size),
        **counts,
    )
    if _is_done(root, meta):
        return False

    root.mkdir(parents=True, exist_ok=True)
    (root / _UNFINISHED).write_text(json.dumps(meta))
    (root / _META).unlink(missing_ok=True)
    for kind in ('images', 'annotations'):
        if (root / kind).exists():
            shutil.rmtree(root / kind)
    done, total = 0, sum(counts.values())

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for split, count in counts.items():
        _write_split(root, split, count, size, seed, step)
    os.replace(root / _UNFINISHED, root / _META)
    return True
