"""What stands or moves in a street: poles, wires, signs, cars and people."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from .drawing import (
    CAR,
    GLASS,
    INK,
    PERSON,
    POLE,
    SIGN,
    SUPERSAMPLING,
    Canvas,
    box,
    disc,
)

# Side views, rear to front: meters along, meters up. The first and the last
# four points of a body are [sill, belt, screen foot, roof] of each end.
_BODIES = (
    (
        (0, 0, 0.55, 1.05, 2.5, 3.2, 4.2, 4.25),
        (0.3, 0.85, 0.92, 1.4, 1.42, 0.95, 0.8, 0.3),
    ),
    (
        (0, 0.02, 0.1, 0.4, 2.3, 2.9, 3.7, 3.75),
        (0.3, 0.9, 0.98, 1.5, 1.52, 1.0, 0.85, 0.3),
    ),
    (
        (0, 0, 0.02, 0.1, 3.5, 4.2, 4.8, 4.85),
        (0.3, 1.0, 1.1, 2.0, 2.0, 1.15, 1.0, 0.3),
    ),
)
_WINDOWS = (
    ((0.8, 1.15, 2.4, 2.95), (0.94, 1.3, 1.33, 0.95)),
    ((0.35, 0.55, 2.2, 2.7), (1.0, 1.4, 1.42, 1.0)),
    ((2.7, 2.7, 3.4, 3.9), (1.15, 1.8, 1.8, 1.15)),
)

# Corners and turn of a sign; colors of its rim and its face.
_SHAPES = (
    (12, 0.0),
    (3, 0.0),
    (3, np.pi),
    (4, np.pi / 4),
    (8, np.pi / 8),
    (4, 0.0),
)
_COLORS = (
    ([0.75, 0.1, 0.1], [0.9, 0.88, 0.85]),
    ([0.1, 0.25, 0.65], [0.12, 0.3, 0.72]),
    ([0.9, 0.9, 0.88], [0.1, 0.4, 0.25]),
    ([0.2, 0.2, 0.2], [0.9, 0.72, 0.15]),
    ([0.75, 0.1, 0.1], [0.75, 0.12, 0.12]),
    ([0.45, 0.45, 0.46], [0.5, 0.5, 0.5]),
)


def _draw_post(
    canvas: Canvas,
    x: float,
    z: float,
    height: float,
    width: float,
    color: np.ndarray,
) -> int:
    """Draw a new pole; returns its surface id."""
    surface = canvas.new(POLE)
    half = max(width / 2, 0.5 * SUPERSAMPLING / canvas.camera.scale(z))
    points = canvas.flat(x, z)(box(-half, 0, half, height))
    canvas.fill(points, color, surface, z)
    return surface


def add_pole(
    canvas: Canvas, x: float, z: float, side: int, wired: bool
) -> None:
    """A lamp post, or a mast that carries wires."""
    rng = canvas.rng
    height = 6.2 if wired else rng.uniform(4.0, 6.5)
    canvas.cast(x + np.array([-0.06, 0.06]), z, 0, height)

    def draw() -> None:
        color = canvas.gray(0.12, 0.6) * canvas.light(0, -1)
        if wired:
            color = np.float32([0.3, 0.24, 0.18]) * rng.uniform(0.7, 1.3)
        width = rng.uniform(0.08, 0.12)
        surface = _draw_post(canvas, x, z, height, width, color)
        place = canvas.flat(x, z)
        if wired:
            arm = [(-0.9, height - 0.3), (0.9, height - 0.3)]
        else:
            u = -side * rng.uniform(0.8, 1.8)
            arm = [(0, height), (u, height)]
            lamp = box(u - 0.3, height - 0.1, u + 0.3, height + 0.06)
            canvas.fill(place(lamp), color * 1.3, surface, z)
        canvas.stroke(place(arm), 0.06, color, surface, z)

    canvas.add(z, draw)


def add_wires(canvas: Canvas, x: float, stops: Sequence[float]) -> None:
    """Sagging wires; class pole, but of no instance."""
    color = canvas.gray(0.08, 0.25)
    t = np.linspace(0, 1, 9)
    lines = [(shift, canvas.rng.uniform(0.2, 0.7)) for shift in (-0.8, 0.8)]

    def draw(near: float, far: float) -> None:
        for shift, sag in lines:
            points = canvas.camera.project(
                x + shift,
                5.95 - sag * 4 * t * (1 - t),
                near + (far - near) * t,
            )
            canvas.stroke(points, 0.02, color, POLE, (near + far) / 2)

    for near, far in zip(stops[:-1], stops[1:]):
        canvas.add((near + far) / 2, lambda a=near, b=far: draw(a, b))


def add_sign(canvas: Canvas, x: float, z: float) -> None:
    """One or two traffic signs on a pole."""
    rng = canvas.rng
    top = rng.uniform(2.1, 3.0)
    canvas.cast(x + np.array([-0.04, 0.04]), z, 0, top)

    def draw() -> None:
        light, place = canvas.light(0, -1), canvas.flat(x, z)
        color = canvas.gray(0.3, 0.65) * light
        _draw_post(canvas, x, z, top, 0.07, color)
        y = top + 0.1
        for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
            surface, size = canvas.new(SIGN), rng.uniform(0.26, 0.42)
            shape = _SHAPES[rng.integers(6)]
            rim, face = _COLORS[rng.integers(6)]
            for share, tint in ((1.0, rim), (0.72, face)):
                points = place(disc(0, y, share * size, *shape))
                canvas.fill(points, np.float32(tint) * light, surface, z)
            ink = INK if rng.random() < 0.5 else [0.9, 0.9, 0.9]
            if face[0] != face[1]:
                w = 0.32 * size
                bar = [(-w, y - 0.1), (-w, y + 0.06), (w, y + 0.1)]
                bar = place([*bar, (w, y - 0.06)])
                canvas.fill(bar, np.float32(ink) * light, surface, z)
            y -= 2 * size + 0.05

    canvas.add(z, draw)


def add_car(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A car whose front points ``heading`` radians away from straight ahead,
    to the right."""
    rng, camera = canvas.rng, canvas.camera
    kind = rng.choice(3, p=[0.45, 0.4, 0.15])
    body, window = np.array(_BODIES[kind]), np.array(_WINDOWS[kind])
    length, half = body[0, -1], rng.uniform(0.82, 0.95)
    color = (
        canvas.gray(0.08, 0.25),
        canvas.gray(0.3, 0.55),
        canvas.gray(0.7, 0.9),
        np.float32(rng.uniform(0.05, 0.65, 3)),
    )[rng.integers(4)]
    cos, sin = np.cos(heading), np.sin(heading)

    def world(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
        """Meters along and across the car to (x, z)."""
        a = np.asarray(a) - length / 2
        return x + a * sin + b * cos, z + a * cos - b * sin

    def place(a: Any, b: Any, y: Any) -> np.ndarray:
        """To canvas pixels; cars are narrower above the belt."""
        b = b * (1 - 0.2 * np.clip((np.asarray(y) - 0.95) / 0.5, 0, 1))
        x, z = world(a, b)
        return camera.project(x, y, z)

    def light(a: float, b: float) -> float:
        return canvas.light(a * sin + b * cos, a * cos - b * sin)

    across = np.array([-half, half, -half, half])
    canvas.cast(*world([0, 0, length, length], across), 0, 1.2)

    def draw() -> None:
        surface = canvas.new(CAR)

        def fill(a: Any, b: Any, y: Any, tint: Any) -> None:
            canvas.fill(place(a, b, y), tint, surface, z)

        def quad(
            low: Any, high: Any, left: float, right: float, tint: Any
        ) -> None:
            """Across an end of the car, between two of its points."""
            a, y = np.transpose([low, low, high, high])
            fill(a, half * np.array([left, right, right, left]), y, tint)

        a, y = body
        both = np.vstack([place(a, -half, y), place(a, half, y)])
        hull = cv2.convexHull(both.astype(np.float32))[:, 0]
        canvas.fill(hull, color * 1.05, surface, z)
        sight = np.array([camera.offset - x - camera.bend * z * z, -z])
        b = half if sight @ (cos, -sin) > 0 else -half
        rear = sight @ (sin, cos) < 0
        wheels = (0.75, length - 0.8)
        for wheel in wheels:
            u, v = disc(wheel, 0.3, 0.31).T
            fill(u, b, v, INK)
        fill(a, b, y, color * light(0, np.sign(b)))
        fill(window[0], b, window[1], GLASS * 0.9)
        for wheel in wheels:
            for radius, tint in ((0.31, INK), (0.17, [0.4, 0.4, 0.42])):
                u, v = disc(wheel, 0.31, radius).T
                fill(u, b, v, tint)

        sill, belt, foot, roof = body.T[:4] if rear else body.T[:-5:-1]
        shade = color * light(-1.0 if rear else 1.0, 0)
        tire = (sill[0], 0.0)
        quad(tire, sill, -0.95, -0.65, INK)
        quad(tire, sill, 0.65, 0.95, INK)
        quad(sill, belt, -1, 1, shade)
        quad(foot, 0.15 * foot + 0.85 * roof, -0.9, 0.9, GLASS * 1.2)
        lamp = [0.6, 0.08, 0.06] if rear else [0.9, 0.88, 0.75]
        for left in (-0.95, 0.6):
            quad((belt[0], 0.62), (belt[0], 0.78), left, left + 0.35, lamp)
        plate = [0.8, 0.8, 0.75]
        quad((sill[0], 0.42), (sill[0], 0.52), -0.3, 0.3, plate)

    canvas.add(z, draw)


def add_person(canvas: Canvas, x: float, z: float) -> None:
    """Somebody who walks, seen from the front; some carry a bag."""
    rng = canvas.rng
    tall = rng.uniform(1.5, 1.9)
    canvas.cast(x + np.array([-0.2, 0.2]), z, 0, tall)

    def draw() -> None:
        surface, place = canvas.new(PERSON), canvas.flat(x, z)
        light = canvas.light(0, -1)
        coat = np.float32(rng.uniform(0.06, 0.75, 3)) * light
        if rng.random() < 0.5:
            coat = canvas.gray(0.1, 0.6) * light
        legs = canvas.gray(0.08, 0.4, 0.08) * light
        skin = np.float32([0.75, 0.56, 0.44]) * rng.uniform(0.4, 1.1) * light
        stride, swing = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)

        def part(points: Any, tint: Any) -> None:
            """Paint a part; points are shares of the height."""
            canvas.fill(place(np.array(points) * tall), tint, surface, z)

        def limb(
            low: tuple, half_low: float, high: tuple, half_high: float, tint
        ) -> None:
            (a, b), (c, d) = low, high
            ends = [(a - half_low, b), (c - half_high, d)]
            part([*ends, (c + half_high, d), (a + half_low, b)], tint)

        for foot in (-0.04 + stride / 2, 0.04 - stride / 2):
            limb((foot, 0), 0.035, (0, 0.5), 0.07, legs * (0.85 + foot))
        for hand, shoulder in ((-0.15 + swing, -0.11), (0.15 + swing, 0.11)):
            limb((shoulder, 0.8), 0.03, (hand, 0.45), 0.025, coat * 0.85)
        hip, hem = rng.uniform(0.08, 0.12), rng.uniform(0.3, 0.48)
        left = [(-hip, hem), (-0.11, 0.8), (-0.04, 0.84)]
        part([*left, (0.04, 0.84), (0.11, 0.8), (hip, hem)], coat)
        part(box(-0.02, 0.8, 0.02, 0.88), skin)
        part(disc(0, 0.925, 0.06, 10), canvas.gray(0.05, 0.4))
        part(disc(0, 0.91, 0.048, 10), skin)
        if rng.random() < 0.3:
            part(box(0.1, 0.4, 0.19, 0.6), canvas.gray(0.1, 0.6, 0.15))

    canvas.add(z, draw)
