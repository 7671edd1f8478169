"""What the runs of a table say: over seeds, and between the rows."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..report.runs import Log
from ..report.tables import heading, markdown_table
from .definition import Pair, Row, Table

#: Stands for what cannot be said.
DASH = '—'


class Statistic(NamedTuple):
    """A metric over seeds.

    Attributes:
        mean (float): The mean.
        std (float, optional): The standard deviation, with n - 1; None of a
            single value.
        values (tuple[float]): The values.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic | None:
        """That of some values; None of no values.

        Example:
            >>> Statistic.of([1.0, 3.0]).std
            1.4142135623730951
        """
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, tuple(values))


def gain(row: float | None, student: float | None) -> float | None:
    """What a row has more than the student alone; None if one is missing."""
    return None if row is None or student is None else row - student


def gap_closed(
    row: float | None, student: float | None, teacher: float | None
) -> float | None:
    """Share of the gap between student and teacher that a row closes.

    It is (row - student) / (teacher - student), whether more or less of the
    metric is better; None if a side is missing or there is no gap.

    Example:
        >>> gap_closed(41., 40., 44.), gap_closed(5., 6., 4.)
        (0.25, 0.5)
    """
    if row is None or student is None or teacher is None or teacher == student:
        return None
    return (row - student) / (teacher - student)


def summarize(
    table: Table,
    logs: Callable[[Row, int], Log | None],
    costs: dict[str, dict] | None = None,
    machine: str | None = None,
) -> dict:
    """What a table says, as plain types.

    Args:
        table (Table): The table.
        logs (Callable): The log of a row's run with a seed, None if it has
            not been run to its end.
        costs (dict[str, dict], optional): By the names of rows, their
            ``parameters``, ``flops`` and ``latency``; a row that has none
            has those of its pair's student. Defaults to None.
        machine (str, optional): Where the latency was measured.

    Returns:
        dict: The table's ``title``, ``metrics``, …, and ``rows``.
    """
    rows = [
        row
        for pair in table.pairs
        for row in _pair(pair, table.metrics, logs, costs or {})
    ]
    return dict(
        name=table.name,
        title=table.title,
        metrics=table.metrics,
        decimals=table.decimals,
        input_size=list(table.input_size),
        machine=machine,
        rows=rows,
    )


def _pair(
    pair: Pair, metrics: list[str], logs: Callable, costs: dict[str, dict]
) -> list[dict]:
    found = {row: _over_seeds(row, metrics, logs) for row in pair.rows}

    def mean(row: Row | None, metric: str) -> float | None:
        cell = None if row is None else found[row]['metrics'].get(metric)
        return None if cell is None else cell['mean']

    for row in pair.rows:
        runs_like = row if row is pair.teacher else pair.student
        cost = costs.get(row.name, costs.get(runs_like.name, {}))
        found[row] = dict(pair=pair.title, **found[row], **cost)
        if row not in pair.distilled:
            continue
        for metric, cell in found[row]['metrics'].items():
            values = cell['mean'], mean(pair.student, metric)
            cell['gain'] = gain(*values)
            cell['gap_closed'] = gap_closed(
                *values, mean(pair.teacher, metric)
            )
    return list(found.values())


def _over_seeds(row: Row, metrics: list[str], logs: Callable) -> dict:
    runs = {seed: logs(row, seed) for seed in row.seeds}
    runs = {seed: log.metrics for seed, log in runs.items() if log}
    cells = {}
    for metric in metrics:
        # Of all seeds or of none, lest rows be means of other runs.
        if runs and all(metric in run for run in runs.values()):
            cells[metric] = Statistic.of(
                [run[metric] for run in runs.values()]
            )._asdict()
    return dict(
        title=row.title,
        config=row.name,
        seeds=list(runs),
        seeds_asked=list(row.seeds),
        metrics=cells,
    )


def to_markdown(summary: dict) -> list[str]:
    """The lines of two tables: the metrics, and what distillation gains.

    Args:
        summary (dict): As :func:`summarize` gives it.

    Returns:
        list[str]: The lines.
    """
    metrics = summary['metrics']
    heads = [heading(metric) for metric in metrics]
    costs = [c for c in _COSTS if any(c in row for row in summary['rows'])]
    several = len({row['pair'] for row in summary['rows']}) > 1
    values, gains = [], []
    for row in summary['rows']:
        title = f'{row["pair"]}: {row["title"]}' if several else row['title']
        cells = [_value(row, m, summary['decimals']) for m in metrics]
        asked = len(row['seeds_asked'])
        ran = len(row['seeds'])
        seeds = str(ran) if ran == asked else f'{ran} of {asked}'
        values.append(
            [
                title,
                *cells,
                seeds,
                *(_COSTS[c][1](row[c]) if c in row else DASH for c in costs),
            ]
        )
        if any('gain' in cell for cell in row['metrics'].values()):
            gains.append(
                [
                    title,
                    *(
                        _gain(row['metrics'].get(m, {}), summary['decimals'])
                        for m in metrics
                    ),
                ]
            )
    lines = markdown_table(
        ['', *heads, 'seeds', *(_COSTS[c][0] for c in costs)], values
    )
    if gains:
        lines += [
            '',
            'Difference to the student alone, and in brackets the share '
            'of the way from it to the teacher:',
            '',
            *markdown_table(['', *heads], gains),
        ]
    if costs:
        height, width = summary['input_size']
        lines += [
            '',
            f'FLOPs (multiply-adds) at {height}x{width}'
            + (
                f'; latency of a forward pass of one image of that size, '
                f'median, on {summary["machine"]}.'
                if summary['machine']
                else '.'
            ),
        ]
    return lines


def to_csv(summary: dict) -> str:
    """All figures, a line per row, unrounded; empty where there is none.

    Args:
        summary (dict): As :func:`summarize` gives it.

    Returns:
        str: The text.
    """
    parts = ('mean', 'std', 'gain', 'gap_closed')
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(
        [
            'pair',
            'row',
            'config',
            'seeds',
            'seeds_asked',
            *(f'{m} {part}' for m in summary['metrics'] for part in parts),
            *_COSTS,
        ]
    )
    for row in summary['rows']:
        writer.writerow(
            [
                row['pair'],
                row['title'],
                row['config'],
                len(row['seeds']),
                len(row['seeds_asked']),
                *(
                    row['metrics'].get(m, {}).get(part)
                    for m in summary['metrics']
                    for part in parts
                ),
                *(row.get(cost) for cost in _COSTS),
            ]
        )
    return out.getvalue()


_COSTS = {
    'parameters': ('parameters', lambda n: f'{n / 1e6:.2f} M'),
    'flops': ('FLOPs', lambda n: f'{n / 1e9:.2f} G'),
    'latency': ('latency', lambda s: f'{s * 1000:.1f} ms'),
}


def _value(row: dict, metric: str, decimals: int) -> str:
    if not row['seeds']:
        return 'not run'
    cell = row['metrics'].get(metric)
    if cell is None:
        return DASH
    text = f'{cell["mean"]:.{decimals}f}'
    if cell['std'] is not None:
        text += f' ± {cell["std"]:.{decimals}f}'
    return text


def _gain(cell: dict, decimals: int) -> str:
    if cell.get('gain') is None:
        return DASH
    share = cell['gap_closed']
    # Adding 0 makes -0 a plain one.
    closed = DASH if share is None else f'{round(share, 2) + 0:.0%}'
    return f'{cell["gain"]:+.{decimals}f} ({closed})'
