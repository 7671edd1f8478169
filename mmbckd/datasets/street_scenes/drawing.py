"""The canvas of a street scene: what sees it, lights it, and paints on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..seg_datasets import StreetScenesDataset

CLASSES = StreetScenesDataset.METAINFO['classes']
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

SUPERSAMPLING = 3  # odd, so that a sample lies at every pixel's center
NEAR, FAR = 2.0, 75.0  # meters in front of the camera
INK = np.float32([0.09, 0.09, 0.11])
GLASS = np.float32([0.16, 0.19, 0.24])

# Grain of each class, fine and coarse, before a scene scales it: ranges
# overlap on purpose, for texture alone must not tell the class.
_FINE = np.float32(
    [0.01, 0.05, 0.05, 0.07, 0.06, 0.16, 0.03, 0.05, 0.03, 0.05, 0.06]
)
_COARSE = np.float32(
    [0.01, 0.05, 0.04, 0.04, 0.05, 0.10, 0.03, 0.05, 0.03, 0.05, 0.06]
)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]
) -> np.ndarray:
    """Gaussian noise of about ``cells`` bumps, enlarged to ``shape``."""
    noise = rng.standard_normal(cells, dtype=np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def disc(
    x: float, y: float, radius: float, corners: int = 12, turn: float = 0.0
) -> np.ndarray:
    """Corners of a regular polygon, shape (corners, 2)."""
    angles = turn + np.arange(corners) * (2 * np.pi / corners)
    return np.stack(
        [x + radius * np.sin(angles), y + radius * np.cos(angles)], -1
    )


def box(
    left: float, bottom: float, right: float, top: float
) -> list[tuple[float, float]]:
    """Corners of an upright rectangle."""
    return [(left, bottom), (left, top), (right, top), (right, bottom)]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over a flat ground whose road bends sideways.

    World coordinates are meters to the right, up, and ahead.
    """

    height: int
    width: int
    focal: float
    horizon: float
    center: float
    eye: float
    offset: float
    bend: float

    def project(self, x: Any, y: Any, z: Any) -> np.ndarray:
        """World to canvas pixels, shape (..., 2)."""
        x, y, z = np.asarray(x), np.asarray(y), np.maximum(z, NEAR)
        ahead = x - self.offset + self.bend * z * z
        u = self.center + self.focal * ahead / z
        v = self.horizon + self.focal * (self.eye - y) / z
        return np.stack(np.broadcast_arrays(u, v), -1)

    def scale(self, z: float) -> float:
        """Pixels of one meter at depth ``z``."""
        return self.focal / max(z, NEAR)


class Canvas:
    """Three planes to paint on: color, surface and depth.

    They are :data:`SUPERSAMPLING` times finer than the result: the image is
    the area average of ``color`` (soft edges, as a camera gives), the labels
    are a sample of ``surface`` at each pixel's center (crisp, never mixed).

    A surface id below ``len(CLASSES)`` is a class without instances; above, it
    is an instance, whose class is ``owner[id]``.
    """

    def __init__(
        self, rng: np.random.Generator, height: int, width: int
    ) -> None:
        self.rng = rng
        h, w = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.camera = Camera(
            height=h,
            width=w,
            focal=h * rng.uniform(1.55, 1.9),
            horizon=h * rng.uniform(0.38, 0.48),
            center=w * rng.uniform(0.42, 0.58),
            eye=rng.uniform(1.5, 2.1),
            offset=rng.uniform(-0.5, 2.0),
            bend=rng.uniform(-0.004, 0.004),
        )
        self.color = np.zeros((h, w, 3), np.float32)
        self.surface = np.zeros((h, w), np.int32)
        self.depth = np.full((h, w), 4 * FAR, np.float32)
        self.shadow = np.zeros((h, w), np.uint8)
        self.owner = list(range(len(CLASSES)))
        self._objects: list[tuple[float, Callable[[], None]]] = []

        # Plain floats: a float64 of NumPy would widen whole canvases.
        self.sun = rng.uniform(0.3, 1.0) if rng.random() < 0.75 else 0.0
        azimuth = rng.uniform(0, 2 * np.pi)
        elevation = rng.uniform(0.35, 1.1)
        self.sun_flat = np.array([np.sin(azimuth), np.cos(azimuth)])
        self._reach = min(1 / np.tan(elevation), 2.5)

    def light(self, x: float, z: float) -> float:
        """Brightness of an upright surface whose normal is (x, z)."""
        facing = max(0.0, x * self.sun_flat[0] + z * self.sun_flat[1])
        return 1 - 0.5 * self.sun + 0.65 * self.sun * facing

    def gray(self, low: float, high: float, tint: float = 0.04) -> np.ndarray:
        """A random gray between two brightnesses, slightly tinted."""
        return np.float32(
            self.rng.uniform(low, high) + self.rng.uniform(-tint, tint, 3)
        )

    def new(self, label: int) -> int:
        """The surface id of a new instance of a class."""
        self.owner.append(label)
        return len(self.owner) - 1

    def add(self, z: float, draw: Callable[[], None]) -> None:
        """Have an object at depth ``z`` drawn by :meth:`draw_objects`."""
        self._objects.append((z, draw))

    def draw_objects(self) -> None:
        """Draw from far to near, so that near objects hide far ones."""
        for _, draw in sorted(self._objects, key=lambda item: -item[0]):
            draw()

    def fill(self, points: Any, color: Any, surface: int, z: float) -> None:
        """Paint a polygon, given in canvas pixels, on all planes."""
        self._paint(cv2.fillPoly, points, color, surface, z)

    def stroke(
        self, points: Any, meters: float, color: Any, surface: int, z: float
    ) -> None:
        """Paint a polyline, at least one pixel of the result wide: a thinner
        one would break into dots in the labels."""
        width = max(SUPERSAMPLING, round(meters * self.camera.scale(z)))
        self._paint(
            cv2.polylines, points, color, surface, z, False, thickness=width
        )

    def _paint(
        self,
        tool: Callable[..., Any],
        points: Any,
        color: Any,
        surface: int,
        z: float,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        points = [_fixed_point(np.asarray(points, np.float64))]
        for plane, value in (
            (self.color, [float(c) for c in color]),
            (self.surface, surface),
            (self.depth, z),
        ):
            tool(plane, points, *args, value, shift=4, **kwargs)

    def flat(self, x: float, z: float) -> Callable[[Any], np.ndarray]:
        """A cut-out facing the camera at (x, z): maps (right, up)."""
        foot = self.camera.project(x, 0.0, z)
        scale = self.camera.scale(z)
        return lambda points: foot + np.asarray(points) * (scale, -scale)

    def cast(self, x: Any, z: Any, low: float, high: float) -> None:
        """Shadow on the ground of a body over (x, z), low to high."""
        x, z = np.broadcast_arrays(x, z)
        shift = -self._reach * np.array([[low], [high]])
        points = self.camera.project(
            (x + shift * self.sun_flat[0]).ravel(),
            0.0,
            (z + shift * self.sun_flat[1]).ravel(),
        )
        hull = cv2.convexHull(np.clip(points, -2e4, 2e4).astype(np.float32))
        cv2.fillConvexPoly(self.shadow, _fixed_point(hull), 255, shift=4)

    def labels(self) -> np.ndarray:
        """The class of every canvas pixel, uint8."""
        return np.asarray(self.owner, np.uint8)[self.surface]

    def expose(self) -> np.ndarray:
        """Grain, haze, light and sensor; returns (h, w, 3) uint8 BGR."""
        rng, shape, label = self.rng, self.surface.shape, self.labels()
        amount = rng.uniform(0.5, 1.5, (2, len(CLASSES))).astype(np.float32)
        fine = rng.standard_normal(
            (shape[0] // 2 + 1, shape[1] // 2 + 1), dtype=np.float32
        )
        fine = fine.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]
        coarse = smooth_noise(rng, shape, (shape[0] // 12, shape[1] // 12))
        grain = 1 + (amount[0] * _FINE)[label] * fine
        grain += (amount[1] * _COARSE)[label] * coarse
        grain *= 1 + 0.09 * smooth_noise(rng, shape, (3, 5))
        color = self.color * grain[..., None]

        thick = rng.uniform(0.004, 0.02) if rng.random() < 0.5 else 0.001
        haze = 1 - np.exp(-thick * self.depth)
        haze[label == SKY] *= 0.4
        color += (self.gray(0.65, 0.85, 0.03) - color) * haze[..., None]

        size = (shape[1] // SUPERSAMPLING, shape[0] // SUPERSAMPLING)
        small = cv2.resize(color, size, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (3, 3), rng.uniform(0.2, 0.65))
        warm = rng.uniform(-0.07, 0.09)
        cast = np.float32([1 + warm, 1, 1 - warm])
        small = np.clip(small * cast * rng.uniform(0.85, 1.3), 0, 1)
        small **= np.float32(rng.uniform(0.8, 1.15))
        small += rng.uniform(0.008, 0.03) * rng.standard_normal(
            small.shape, dtype=np.float32
        )
        small = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(small[..., ::-1])


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Canvas pixels as OpenCV takes them with ``shift=4``."""
    return np.rint(np.clip(points, -2e4, 2e4) * 16).astype(np.int32)
