"""Tables of the sweeps that defaults were chosen by."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from kept_logs import summarized

from mmbckd.analysis.formatting import heading, markdown_table
from mmbckd.analysis.tables import read_table
from mmbckd.analysis.tables.definition import Row


def gradients(root: Path) -> list[str]:
    """Gradients relative to the task's, before and after the sweep."""
    folder = root / 'results' / 'camvid'
    names = [
        f'gradients_{when}{which}.json'
        for which in ('_before', '')
        for when in ('start', 'end')
    ]
    losses = [
        json.loads((folder / name).read_text())['losses'] for name in names
    ]
    return markdown_table(
        [
            'to the task',
            *(
                f'{which}, {when} of training'
                for which in ('before', 'now')
                for when in ('start', 'end')
            ),
        ],
        [
            [name, *(f'{loss[name]["ratio"]:.0%}' for loss in losses)]
            for name in losses[0]
            if name != 'task'
        ],
    )


def sweep(root: Path, name: str) -> list[str]:
    """The runs that defaults were chosen by, and the medians of levels."""
    table = read_table(root / 'tables' / f'{name}.yml')
    runs = [
        (
            levels(row, SWEEPS[name]),
            {metric: cell['mean'] for metric, cell in line['metrics'].items()},
        )
        for row, line in summarized(root, table)
        if row.options
    ]
    heads = [heading(metric) for metric in table.metrics]
    form = f'{{:.{table.decimals}f}}'.format
    medians = [
        [factor, level, *map(form, found.values())]
        for (factor, level), found in level_medians(runs).items()
    ]
    every = [
        [
            *found.values(),
            *(
                form(metrics[m]) if metrics else 'not run'
                for m in table.metrics
            ),
        ]
        for found, metrics in runs
    ]
    return [
        *markdown_table(['', 'level', *heads], medians),
        '',
        'The runs:',
        '',
        *markdown_table([*runs[0][0], *heads], every),
    ]


def levels(row: Row, factors: dict[str, list[str]]) -> dict[str, str]:
    """The level of every factor in a run of a sweep."""
    options = dict(row.options)
    found = {
        factor: ', '.join(
            str(options[f'model.distiller.{key}']) for key in keys
        )
        for factor, keys in factors.items()
    }
    return dict(found, seed=str(row.seeds[0]))


def level_medians(runs: list[tuple]) -> dict[tuple, dict[str, float]]:
    """The medians over all runs that had a level, by factor and level."""
    given, metrics = map(pd.DataFrame, zip(*runs))
    medians = {
        factor: metrics.groupby(given[factor], sort=False).median()
        for factor in given
    }
    return pd.concat(medians).dropna().to_dict('index')


# What a sweep gave its runs: the options of a factor.
SWEEPS = {
    'camvid-sweep': {
        'λ_bd': ['boundary.loss_weight'],
        'γ': ['boundary.radius'],
        'boundary': ['boundary.student', 'boundary.source'],
        'λ_cd': ['context.loss_weight'],
        'τ': ['context.tau'],
        'centered': ['context.center'],
        'context': ['context.student.source'],
    },
    'camvid-instance-sweep': {
        'λ_bd': ['boundary.loss_weight'],
        'γ': ['boundary.radius'],
        'affinity': ['boundary.teacher'],
        'λ_cd': ['context.loss_weight'],
        'τ': ['context.tau'],
        'context': ['context.student'],
    },
}

TABLES: dict[str, Callable[[Path], list[str]]] = {
    'gradients': gradients,
    **{name: partial(sweep, name=name) for name in SWEEPS},
}
