"""The figures of runs side by side: metrics, and how their configs differ."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.runner import Runner

from ..formatting import lower_is_better
from ..runs import Run

#: Stands for what a config does not have.
ABSENT = object()

# How a run was started, not what it is.
_STARTED = {'work_dir', 'experiment_name', 'launcher', 'resume'}


class Cell(NamedTuple):
    """A metric of a run.

    Attributes:
        value (str): The value, or '—' if the run has none.
        difference (str): That to the baseline, with its sign; empty for the
            baseline and where there is none.
        better (bool, optional): Whether the difference is a gain; None if it
            is neither gain nor loss.
        best (bool): Whether no run has a better value.
    """

    value: str
    difference: str
    better: bool | None
    best: bool


def metric_table(
    metrics: list[dict], baseline: int = 0
) -> dict[str, list[Cell]]:
    """Compare the metrics of runs.

    Args:
        metrics (list[dict]): The metrics of each run, by their keys.
        baseline (int): The run to which differences are taken. Defaults to 0.

    Returns:
        dict[str, list[Cell]]: For each key, a cell per run.
    """
    keys = dict.fromkeys(key for values in metrics for key in values)
    return {
        key: _metric_row(
            [values.get(key, math.nan) for values in metrics],
            baseline,
            lower_is_better(key),
        )
        for key in keys
    }


def _metric_row(values: list[float], baseline: int, lower: bool) -> list[Cell]:
    numbers = [value for value in values if math.isfinite(value)]
    # COCO's metrics are shares, those of segmentation percentages.
    digits = 3 if all(abs(value) <= 1 for value in numbers) else 2
    values = [round(value, digits) for value in values]
    sign = -1 if lower else 1
    best = max((sign * round(n, digits) for n in numbers), default=None)
    cells = []
    for index, value in enumerate(values):
        difference = value - values[baseline]
        gain = round(sign * difference, digits)
        known = index != baseline and math.isfinite(difference)
        cells.append(
            Cell(
                value=f'{value:.{digits}f}' if math.isfinite(value) else '—',
                difference=f'{difference:+.{digits}f}' if known else '',
                better=gain > 0 if known and gain else None,
                best=len(numbers) > 1 and sign * value == best,
            )
        )
    return cells


def config_table(runs: list[Run]) -> dict[str, list[Any]]:
    """What the configs of runs differ in.

    Only what mmengine's runner reads is compared, so variables that a config
    was written with are left out, and so is how the run was started. The
    student of a distillation stands where a run without one has its model,
    and the rest of its model under ``distillation``; otherwise all of the
    model would differ.

    Args:
        runs (list[Run]): The runs.

    Returns:
        dict[str, list[Any]]: For each dotted key, the value in each run, or
        :data:`ABSENT`.
    """
    known = set(inspect.signature(Runner.__init__).parameters) - _STARTED
    configs = []
    for run in runs:
        config = {k: v for k, v in run.config.to_dict().items() if k in known}
        model = config.pop('model', {})
        if run.distills:
            student = model.pop('architecture')
            config = {'model': student, 'distillation': model, **config}
        else:
            config = {'model': model, 'distillation': {}, **config}
        configs.append(config)
    return dict(_differences('', configs))


def _differences(
    key: str, values: list[Any]
) -> Iterator[tuple[str, list[Any]]]:
    """The keys below ``key`` whose values are not the same everywhere."""
    if all(value == values[0] for value in values):
        return
    present = [value for value in values if value is not ABSENT]
    if all(isinstance(value, dict) for value in present):
        below = dict.fromkeys(k for value in present for k in value)
        items = [value if value is not ABSENT else {} for value in values]
        for name in below:
            yield from _differences(
                f'{key}.{name}'.lstrip('.'),
                [v.get(name, ABSENT) for v in items],
            )
    # Such as pipelines; of other lengths, they cannot be paired up.
    elif len(present) == len(values) and all(
        isinstance(value, (list, tuple))
        and len(value) == len(values[0])
        and all(isinstance(item, dict) for item in value)
        for value in values
    ):
        for index, items in enumerate(zip(*values)):
            yield from _differences(f'{key}.{index}', list(items))
    else:
        yield key, values
