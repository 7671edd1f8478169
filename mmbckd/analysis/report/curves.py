"""Losses and metrics over the iterations, as pictures."""

from __future__ import annotations

import io
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy import ndarray

from ..runs import Log

# Okabe and Ito's colors, but for yellow, which is faint on white.
_COLORS = (
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#000000',
    '#E69F00',
    '#56B4E9',
)
# Lengths of dashes and gaps, in widths of the line.
_DASHES = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2))
# More points of a smoothed curve could not be told apart.
_POINTS = 200


class Style(NamedTuple):
    """How the curve of a run is told from the others.

    Attributes:
        color (str): ``#RRGGBB``.
        dashes (tuple[float]): Dashes and gaps in widths of the line, as in
            SVG's ``stroke-dasharray``; empty for a solid line.
    """

    color: str
    dashes: tuple[float, ...]


class Curve(NamedTuple):
    """A quantity of a run over its iterations, (N, ) each."""

    iterations: ndarray
    values: ndarray


def style(index: int) -> Style:
    """The style of a run; each of the first 28 has its own."""
    return Style(_COLORS[index % len(_COLORS)], _DASHES[index % len(_DASHES)])


def loss_curves(logs: list[Log]) -> dict[str, list[Curve]]:
    """The total loss and every term of it.

    Args:
        logs (list[Log]): The log of each run.

    Returns:
        dict[str, list[Curve]]: For each term, a curve per run, empty for runs
        without it. A distillation's ``student.…`` goes by the name that the
        term has when the student is trained alone.
    """
    renamed = [
        [
            {
                key.removeprefix('student.'): value
                for key, value in record.items()
                if key == 'iter' or 'loss' in key
            }
            for record in log.train
        ]
        for log in logs
    ]
    return _curves(renamed)


def metric_curves(logs: list[Log]) -> dict[str, list[Curve]]:
    """Every metric of the validations; see :func:`loss_curves`."""
    return _curves(
        [
            [
                {k: v for k, v in record.items() if k != 'epoch'}
                for record in log.val
            ]
            for log in logs
        ]
    )


def _curves(runs: list[list[dict]]) -> dict[str, list[Curve]]:
    keys = dict.fromkeys(k for run in runs for record in run for k in record)
    return {
        key: [
            Curve(
                *np.array(
                    [[r['iter'], r[key]] for r in run if key in r], float
                )
                .reshape(-1, 2)
                .T
            )
            for run in runs
        ]
        for key in keys
        if key != 'iter'
    }


def smooth(values: ndarray) -> ndarray:
    """Centered moving average over about a tenth of the values.

    Args:
        values (ndarray): May hold NaN, which has no weight.

    Returns:
        ndarray: As many. Towards the ends fewer values are averaged.

    Shape:
        - values, output: (N, )
    """
    finite = np.isfinite(values)
    window = np.ones(2 * (len(values) // 20) + 1)
    if len(window) == 1:
        return values
    total, weight = (
        np.convolve(x, window, mode='full')
        for x in (np.where(finite, values, 0.0), finite * 1.0)
    )
    inner = slice(len(window) // 2, len(window) // 2 + len(values))
    with np.errstate(invalid='ignore'):
        return total[inner] / weight[inner]


def draw_curves(curves: list[Curve], smoothed: bool) -> str:
    """Draw the curves of the runs, each in its :func:`style`.

    Args:
        curves (list[Curve]): One per run, empty ones included.
        smoothed (bool): Draw the curves smoothed over faint unsmoothed ones;
            otherwise draw them as they are, with a marker at each value.

    Returns:
        str: A picture in SVG.
    """
    figure = Figure(figsize=(3.4, 2.1), layout='constrained')
    axes = figure.add_subplot()
    for index, (iterations, values) in enumerate(curves):
        color, dashes = style(index)
        line = dict(color=color, linestyle=(0, dashes) if dashes else '-')
        if smoothed:
            # In pixels, for a long log is long in SVG.
            axes.plot(
                iterations,
                values,
                color=color,
                alpha=0.3,
                lw=1,
                rasterized=True,
            )
            few = np.linspace(0, len(values) - 1, min(len(values), _POINTS))
            few = few.astype(int)
            axes.plot(iterations[few], smooth(values)[few], lw=1.8, **line)
        else:
            axes.plot(iterations, values, lw=1.8, marker='o', ms=4, **line)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
    stream = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none'}):
        figure.savefig(
            stream,
            format='svg',
            dpi=144,
            metadata=dict.fromkeys(('Date', 'Creator', 'Format', 'Type')),
        )
    return stream.getvalue()


def _thousands(value: float, _: int) -> str:
    return f'{value / 1000:g}k' if value >= 1000 else f'{value:g}'
