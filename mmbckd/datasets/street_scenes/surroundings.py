"""What a street lies in: sky, ground, buildings, plants and railings."""

from typing import Any

import cv2
import numpy as np

from .drawing import (
    BUILDING,
    CLASSES,
    FAR,
    GLASS,
    MARKING,
    NEAR,
    RAILING,
    ROAD,
    SIDEWALK,
    SUPERSAMPLING,
    VEGETATION,
    Canvas,
    disc,
    smooth_noise,
)


def paint_sky(canvas: Canvas) -> None:
    rng, camera = canvas.rng, canvas.camera
    shape = (int(camera.horizon) + 1, camera.width)
    top = np.float32([0.35, 0.55, 0.85]) + rng.uniform(-0.12, 0.1)
    if canvas.sun == 0:
        top = canvas.gray(0.6, 0.85, 0.03)
    low = 0.4 * top + 0.6 * canvas.gray(0.75, 0.95)
    rise = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    sky = top + (low - top) * rise
    cloud = smooth_noise(rng, shape, (5, 6))
    cloud = cloud + 0.6 * smooth_noise(rng, shape, (14, 16))
    cloud = np.clip(cloud - rng.uniform(-0.2, 1.0), 0, 1)[..., None]
    white = canvas.gray(0.75, 0.95)
    canvas.color[: shape[0]] = sky + (white - sky) * cloud * 0.8


def paint_ground(canvas: Canvas, road: float, walks: list[float]) -> None:
    """Everything below the horizon, from per-pixel world positions.

    Args:
        canvas (Canvas): Where to paint; its shadows must be cast.
        road (float): Half of the road's width, in meters.
        walks (list[float]): Where the sidewalks to the left and right end, in
            meters from the middle of the road.
    """
    rng, camera = canvas.rng, canvas.camera
    first = int(camera.horizon) + 1
    v = np.arange(first, camera.height, dtype=np.float32)[:, None]
    u = np.arange(camera.width, dtype=np.float32)[None]
    z = np.minimum(camera.focal * camera.eye / (v - camera.horizon), 4 * FAR)
    x = (u - camera.center) * z / camera.focal
    x = x + camera.offset - camera.bend * z * z

    on_road = np.abs(x) < road
    on_walk = ~on_road & (x > -walks[0]) & (x < walks[1])
    label = np.full(x.shape, VEGETATION, np.uint8)
    label[on_walk], label[on_road] = SIDEWALK, ROAD
    label[on_road & _markings(canvas, x, z, road)] = MARKING

    asphalt = canvas.gray(0.3, 0.52, 0.015)
    colors = np.zeros((len(CLASSES), 3), np.float32)
    colors[ROAD] = asphalt
    colors[SIDEWALK] = (
        asphalt + rng.uniform(0.03, 0.2) + rng.uniform(-0.04, 0.04, 3)
    )
    grass = np.float32([0.3, 0.36, 0.18])
    colors[VEGETATION] = grass * rng.uniform(0.7, 1.3, 3)
    colors[MARKING] = canvas.gray(0.65, 0.9, 0.03)
    color = colors[label]

    # A tile of grain laid on the ground, so that grain shrinks with
    # distance; repairs are darker patches of it.
    tile = smooth_noise(rng, (256, 256), (128, 128))
    repair = smooth_noise(rng, (256, 256), (24, 12)) > 1.2
    col = (x * 6).astype(np.int32) & 255
    row = np.broadcast_to((z * 6).astype(np.int32) & 255, col.shape)
    shade = 1 + 0.07 * tile[row, col] - 0.18 * repair[row, col] * on_road
    track = (np.abs(np.abs(x) - 0.5 * road) - 0.8) / 0.35
    wear = rng.uniform(0.1, 0.35) * np.exp(-(track**2))
    shade -= wear * 0.4 * on_road
    slab = rng.uniform(0.6, 1.2)
    joint = ((x % slab < 0.05) | (z % slab < 0.05)) & (z < 22)
    shade -= 0.2 * (joint & on_walk)
    curb = on_walk & (np.abs(x) < road + 0.18)
    shade += rng.uniform(-0.12, 0.2) * curb
    color *= shade[..., None]

    dark = cv2.blur(canvas.shadow[first:], (5, 5)).astype(np.float32)
    blue = np.float32([1.05, 1.0, 0.9])
    color *= 1 - dark[..., None] / 255 * (0.62 * canvas.sun) * blue
    canvas.color[first:], canvas.surface[first:] = color, label
    canvas.depth[first:] = z


def _markings(
    canvas: Canvas, x: np.ndarray, z: np.ndarray, road: float
) -> np.ndarray:
    """Where the road would be painted: lines in its middle and at its sides,
    and a crossing."""
    rng = canvas.rng
    # One pixel of the result wide at least, as every thin thing is.
    half = np.maximum(0.07, 0.5 * SUPERSAMPLING * z / canvas.camera.focal)
    period, phase = rng.uniform(4, 8), rng.uniform(0, 8)
    dashes = (z + phase) % period < 0.5 * period
    if rng.random() < 0.3:
        dashes |= True
    paint = (np.abs(x) < half) & dashes
    if rng.random() < 0.7:
        paint |= np.abs(np.abs(x) - (road - 0.45)) < half
    if rng.random() < 0.45:
        start = rng.uniform(8, 18)
        stripes = (x % 1.1 < 0.55) & (z > start) & (z < start + 3)
        paint |= stripes | ((np.abs(z - start + 1) < 0.15) & (x > 0))
    return paint & (z < 0.7 * FAR)


def paint_backdrop(canvas: Canvas) -> None:
    """A far line of hills or woods that closes the horizon."""
    rng, right = canvas.rng, canvas.camera.width + 9
    foot = canvas.camera.project(0.0, 0.0, FAR)[1]
    heights = smooth_noise(rng, (1, 64), (1, 9))[0]
    heights = 5 + 2.5 * heights + 0.8 * rng.standard_normal(64)
    tops = foot - canvas.camera.scale(FAR) * np.clip(heights, 1, None)
    line = np.stack([np.linspace(-9, right, 64), tops], -1)
    canvas.fill(
        np.vstack([[[-9, foot]], line, [[right, foot]]]),
        np.float32([0.2, 0.28, 0.16]) * rng.uniform(0.8, 1.3),
        VEGETATION,
        FAR,
    )


def add_building(
    canvas: Canvas, side: int, x: float, near: float, far: float
) -> None:
    """Two walls that can be seen: along the street, and across it."""
    rng = canvas.rng
    height = rng.uniform(4.5, 16)
    kind = rng.choice([0, 1, 2, 3], p=[0.4, 0.25, 0.2, 0.15])
    wall = (
        canvas.gray(0.3, 0.6),
        canvas.gray(0.55, 0.8),
        np.float32([0.52, 0.34, 0.26]) * rng.uniform(0.7, 1.2),
        np.float32([0.6, 0.52, 0.36]) * rng.uniform(0.8, 1.2),
    )[kind]
    style = dict(
        wall=wall,
        story=rng.uniform(2.8, 3.8),
        bay=rng.uniform(1.6, 4.0),
        side=rng.uniform(0.06, 0.34),
        sill=rng.uniform(0.15, 0.5),
        lines=rng.random() < 0.5,
        shop=rng.random() < 0.55,
        shop_glass=GLASS * rng.uniform(0.5, 2.0),
        board=np.float32(rng.uniform(0.1, 0.9, 3)),
    )
    inner, outer = side * x, side * (x + rng.uniform(8, 14))
    canvas.cast(
        [inner, outer, inner, outer], [near, near, far, far], 0, height
    )

    def draw() -> None:
        _facade(canvas, (outer, near), (inner, near), height, style)
        _facade(canvas, (inner, near), (inner, far), height, style)

    canvas.add(far, draw)


def _facade(
    canvas: Canvas,
    start: tuple[float, float],
    end: tuple[float, float],
    height: float,
    style: dict[str, Any],
) -> None:
    """A wall between two ground points (x, z), with its windows."""
    camera, rng = canvas.camera, canvas.rng
    x, z = np.transpose([start, end])
    ua, ub = camera.project(x, 0.0, z)[:, 0]
    za, zb = max(start[1], NEAR), max(end[1], NEAR)
    lo = max(0, int(np.ceil(min(ua, ub))))
    hi = min(camera.width, int(max(ua, ub)) + 1)
    near = camera.scale(min(za, zb))
    top = max(0, int(camera.horizon - near * (height - camera.eye)))
    bottom = min(camera.height, int(camera.horizon + near * camera.eye) + 1)
    if lo >= hi or top >= bottom:
        return
    # Along a wall in perspective 1/z is linear in the column.
    t = ((np.arange(lo, hi) - ua) / (ub - ua)).astype(np.float32)[None]
    inverse = (1 - t) / za + t / zb
    length = float(np.hypot(start[0] - end[0], start[1] - end[1]))
    s = t / zb / inverse * length
    v = np.arange(top, bottom, dtype=np.float32)[:, None]
    y = camera.eye - (v - camera.horizon) / (inverse * camera.focal)
    inside = (y >= 0) & (y <= height)

    story, bay, side = style['story'], style['bay'], style['side']
    floor = (y / story).astype(np.int32)
    column = (s / bay).astype(np.int32)
    fy, fs = y / story - floor, s / bay - column
    pane = (fs > side) & (fs < 1 - side)
    pane = pane & (fy > style['sill']) & (fy < 0.88) & (y < height - 0.4)
    glass = rng.choice([0.6, 1.0, 1.5, 3.2], (16, 16), p=[0.4, 0.3, 0.2, 0.1])
    glass = glass.astype(np.float32)[floor & 15, column & 15]
    wall = 1 - 0.1 * style['lines'] * ((y % 0.3) < 0.07)
    wall = wall - 0.25 * (height - y < 0.35) + 0.1 * (fy < 0.06)
    color = wall[..., None] * style['wall']
    color = np.where(pane[..., None], glass[..., None] * GLASS, color)
    if style['shop']:
        # Boards and round shop signs are part of the building: only their
        # place tells them from traffic signs.
        shop = (y < 0.75 * story) & (fs > 0.08) & (fs < 0.92)
        color[shop & (y > 0.35)] = style['shop_glass']
        board = (y > 0.76 * story) & (y < 0.98 * story)
        color[board & inside] = style['board']
        sign = ((fs - 0.5) * bay) ** 2 + (y - 1.35 * story) ** 2 < 0.16
        color[sign & (column % 2 == 0)] = style['board'][::-1]
    normal = np.array([-(end[1] - start[1]), end[0] - start[0]])
    normal = normal / max(length, 1e-6)
    middle = np.add(start, end) / 2 - (camera.offset, 0)
    normal *= -1.0 if normal @ middle > 0 else 1.0
    color *= canvas.light(*normal)

    window = np.s_[top:bottom, lo:hi]
    depth = np.broadcast_to(1 / inverse, inside.shape)
    canvas.color[window][inside] = color[inside]
    canvas.surface[window][inside] = BUILDING
    canvas.depth[window][inside] = depth[inside]


def add_plant(
    canvas: Canvas, x: float, z: float, trunk: float, radius: float
) -> None:
    """A tree, or with no trunk a bush. The trunk is vegetation too, however
    much it looks like a pole."""
    rng = canvas.rng
    canvas.cast(x + np.array([-0.1, 0.1]), z, 0, trunk + radius)
    ring = 0.8 * radius * disc(0, 0, 1)
    canvas.cast(x + ring[:, 0], z + ring[:, 1], trunk, trunk + radius)

    def draw() -> None:
        place = canvas.flat(x, z)
        lean, width = rng.uniform(-0.2, 0.2), rng.uniform(0.07, 0.13)
        if trunk:
            points = [
                (-width, 0),
                (lean - width, trunk + 0.5),
                (lean + width, trunk + 0.5),
                (width, 0),
            ]
            bark = canvas.gray(0.18, 0.34) * canvas.light(0, -1)
            canvas.fill(place(points), bark, VEGETATION, z)
        leaf = np.float32([0.26, 0.36, 0.14]) * rng.uniform(0.6, 1.25, 3)
        # Leaves thin out towards the rim, which leaves gaps there.
        n = 70 if trunk else 20
        angle, r = rng.uniform(0, 2 * np.pi, n), rng.random(n) ** 0.6
        dx, dy = radius * r * np.cos(angle), radius * r * np.sin(angle)
        size = radius * rng.uniform(0.09, 0.3, n) * (1.15 - 0.5 * r)
        side = (0.8 * canvas.sun_flat[0] * dx + dy) / radius
        tone = 1 + 0.3 * (0.3 + canvas.sun) * side
        tone = tone * rng.uniform(0.8, 1.2, n)
        for i in np.argsort(tone, kind='stable'):
            blob = disc(
                lean + dx[i],
                trunk + 0.8 * radius + dy[i],
                size[i],
                rng.integers(5, 8),
                angle[i],
            )
            canvas.fill(place(blob), leaf * tone[i], VEGETATION, z)

    canvas.add(z, draw)


def add_railing(
    canvas: Canvas, start: tuple[float, float], end: tuple[float, float]
) -> None:
    """A see-through fence, in short panels so that each of them sorts rightly
    among the things before and behind it."""
    rng, project = canvas.rng, canvas.camera.project
    height, gap = rng.uniform(0.9, 1.3), rng.uniform(0.35, 0.7)
    color = canvas.gray(0.15, 0.75, 0.08) * canvas.light(-start[0], -1)
    rails = [height, 0.15] + [0.5 * height] * (rng.random() < 0.4)
    length = np.hypot(end[0] - start[0], end[1] - start[1])
    ends = np.linspace(start, end, max(2, int(length / 2.5) + 1))

    def draw(a: np.ndarray, b: np.ndarray, z: float) -> None:
        x, depth = np.transpose([a, b])
        # Bars closer than three pixels would melt into a wall.
        seen = np.ptp(project(x, 0.0, depth)[:, 0]) / (3 * SUPERSAMPLING)
        count = max(1, int(min(np.hypot(*(b - a)) / gap, seen)))
        for x0, z0 in np.linspace(a, b, count, endpoint=False):
            bar = project(x0, [0, height], z0)
            canvas.stroke(bar, 0.03, color, RAILING, float(z0))
        for y in rails:
            canvas.stroke(project(x, y, depth), 0.04, color, RAILING, z)

    for a, b in zip(ends[:-1], ends[1:]):
        z = float(a[1] + b[1]) / 2
        canvas.cast([a[0], b[0]], [a[1], b[1]], height - 0.1, height)
        canvas.add(z, lambda a=a, b=b, z=z: draw(a, b, z))
