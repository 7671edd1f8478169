"""What the runs of a table say: over seeds, and between the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..formatting import heading, markdown_table
from ..runs import Log
from .definition import Pair, Row, Table

#: Stands for what cannot be said.
DASH = '—'


def gap_closed(
    row: float,
    student: float,
    teacher: float | None,
    noise: float = 0.0,
) -> float | None:
    """Share of the gap between student and teacher that a row closes.

    It is (row - student) / (teacher - student), whether more or less of the
    metric is better; None without a teacher, or if the gap is no larger than
    ``noise``, the standard deviation of the student over its seeds.

    Example:
        >>> gap_closed(41., 40., 44.), gap_closed(5., 6., 4.)
        (0.25, 0.5)
    """
    if teacher is None or abs(teacher - student) <= noise:
        return None
    return (row - student) / (teacher - student)


def paired_difference(
    row: Sequence[float], rival: Sequence[float], confidence: float = 0.95
) -> dict[str, float] | None:
    r"""Mean of paired differences, with its confidence interval.

    Student's interval for the mean of the :math:`n` differences
    :math:`d_i`: :math:`\bar d \pm t_{n-1} \, s_d / \sqrt n`.

    Args:
        row (Sequence[float]): Values of a row, one per seed.
        rival (Sequence[float]): Those of another row, with the same seeds.
        confidence (float): That of the interval. Defaults to 0.95.

    Returns:
        dict, optional: ``mean``, ``low`` and ``high``, the ends of the
        interval; None of fewer than two seeds.

    Shape:
        - row, rival: (n, )

    Example:
        >>> paired_difference([41., 43.], [40., 40.])['mean']
        2.0
    """
    difference = np.subtract(row, rival)
    n = len(difference)
    if n < 2:
        return None
    mean = difference.mean()
    margin = stats.t.ppf((1 + confidence) / 2, n - 1) * stats.sem(difference)
    ends = mean, mean - margin, mean + margin
    return dict(zip(('mean', 'low', 'high'), map(float, ends)))


def summarize(
    table: Table,
    logs: Callable[[Row, int], Log | None],
    costs: dict[str, dict] | None = None,
    machine: str | None = None,
    input_size: Sequence[int] | None = None,
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
        input_size (Sequence[int], optional): Height and width at which the
            costs were measured. Defaults to None: those of the table.

    Returns:
        dict: The table's ``title``, ``metrics``, …, and ``rows``.
    """
    return dict(
        name=table.name,
        title=table.title,
        metrics=table.metrics,
        decimals=table.decimals,
        input_size=list(input_size or table.input_size),
        machine=machine,
        rows=[
            row
            for pair in table.pairs
            for row in _pair(pair, table, logs, costs or {})
        ],
    )


def _pair(
    pair: Pair, table: Table, logs: Callable, costs: dict[str, dict]
) -> Iterator[dict]:
    """The rows of a pair, each compared with the others."""
    runs, summaries = {}, {}
    for row in pair.rows:
        found = {seed: logs(row, seed) for seed in row.seeds}
        found = {seed: log for seed, log in found.items() if log is not None}
        runs[row] = pd.DataFrame.from_dict(
            {seed: log.metrics for seed, log in found.items()}, orient='index'
        ).reindex(columns=table.metrics)
        summaries[row] = dict(
            pair=pair.title,
            title=row.title,
            config=row.name,
            seeds=list(found),
            seeds_asked=list(row.seeds),
            metrics=_over_seeds(runs[row]),
            **(_time(list(found.values())) if table.time else {}),
        )

    def over_seeds(
        row: Row | None, metric: str, key: str = 'mean'
    ) -> float | None:
        cells = {} if row is None else summaries[row]['metrics']
        return cells.get(metric, {}).get(key)

    rivals = [r for r in pair.distilled if r.title in table.rivals]
    for row, summary in summaries.items():
        runs_like = row if row is pair.teacher else pair.student
        summary.update(costs.get(row.name, costs.get(runs_like.name, {})))
        if row in pair.distilled:
            for metric, cell in summary['metrics'].items():
                both = _both(runs[row], runs[pair.student], metric)
                cell.update(gain=None, gap_closed=None)
                if both.empty:
                    continue
                mean, student = both.mean().tolist()
                cell['gain'] = mean - student
                cell['gap_closed'] = gap_closed(
                    mean,
                    student,
                    over_seeds(pair.teacher, metric),
                    over_seeds(pair.student, metric, 'std') or 0.0,
                )
            # Two rivals are compared once.
            others = rivals[: rivals.index(row)] if row in rivals else rivals
            summary['paired'] = {
                rival.title: _paired(runs[row], runs[rival])
                for rival in (pair.student, *others)
            }
        yield summary


def _over_seeds(runs: pd.DataFrame) -> dict[str, dict]:
    """Mean, deviation and values of each metric (a run per line)."""
    # Of all seeds or of none, lest rows be means of other runs.
    runs = runs.dropna(axis=1) if len(runs) else runs[[]]
    return {
        metric: dict(
            mean=float(values.mean()),
            std=float(values.std()) if len(values) > 1 else None,
            values=values.tolist(),
        )
        for metric, values in runs.items()
    }


def _both(row: pd.DataFrame, rival: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric of two rows, of the seeds that both have."""
    both = pd.concat([row[metric], rival[metric]], axis=1, join='inner')
    return both.dropna()


def _paired(row: pd.DataFrame, rival: pd.DataFrame) -> dict[str, dict]:
    """The paired differences of each metric, over the seeds of both."""
    found = {}
    for metric in row:
        both = _both(row, rival, metric)
        difference = paired_difference(*both.to_numpy(float).T)
        if difference is not None:
            found[metric] = dict(difference, seeds=both.index.tolist())
    return found


def _time(logs: list[Log]) -> dict[str, float]:
    """Iterations, seconds per iteration and of the training: the means."""
    keys = ('iterations', 'seconds_per_iter', 'training_seconds')
    frame = pd.DataFrame(
        [{key: getattr(log, key) for key in keys} for log in logs],
        columns=keys,
        dtype=float,
    )
    return frame.mean().dropna().to_dict()


def to_markdown(summary: dict) -> list[str]:
    """The lines of up to three tables: the metrics, what distillation gains,
    and the paired differences.

    Args:
        summary (dict): As :func:`summarize` gives it.

    Returns:
        list[str]: The lines.
    """
    metrics, decimals = summary['metrics'], summary['decimals']
    heads = [heading(metric) for metric in metrics]
    costs = [c for c in _COSTS if any(c in row for row in summary['rows'])]
    several = len({row['pair'] for row in summary['rows']}) > 1
    values, gains, paired = [], [], []
    for row in summary['rows']:
        title = f'{row["pair"]}: {row["title"]}' if several else row['title']
        cells = row['metrics']
        asked, ran = len(row['seeds_asked']), len(row['seeds'])
        values.append(
            [
                title,
                *(
                    _value(cells.get(m), decimals) if ran else 'not run'
                    for m in metrics
                ),
                str(ran) if ran == asked else f'{ran} of {asked}',
                *(_COSTS[c][1](row[c]) if c in row else DASH for c in costs),
            ]
        )
        if any('gain' in cell for cell in cells.values()):
            found = [_gain(cells.get(m, {}), decimals) for m in metrics]
            gains.append([title, *found])
        for rival, differences in row.get('paired', {}).items():
            if differences:  # of two seeds at least
                found = [
                    _interval(differences.get(m), decimals) for m in metrics
                ]
                paired.append([f'{title} − {rival}', *found])
    lines = markdown_table(
        ['', *heads, 'seeds', *(_COSTS[c][0] for c in costs)], values
    )
    if gains:
        lines += [
            '',
            'Difference to the student alone over the seeds that both have, '
            'and in brackets the share of the way from it to the teacher, '
            "unless that is within the student's standard deviation:",
            '',
            *markdown_table(['', *heads], gains),
        ]
    if paired:
        lines += [
            '',
            'Paired difference over the seeds that both have (same seed, same '
            'order of the data) with its 95 % t-interval, bold where that '
            'excludes 0:',
            '',
            *markdown_table(['', *heads], paired),
        ]
    if 'flops' in costs:
        height, width = summary['input_size']
        lines += ['', f'FLOPs (multiply-adds) at {height}x{width}']
        if summary['machine']:
            lines[-1] += (
                '; latency of a forward pass of one image of that size, '
                f'median, on {summary["machine"]}'
            )
        lines[-1] += '.'
    return lines


def to_csv(summary: dict) -> str:
    """All figures, a line per row, unrounded; empty where there is none.

    Args:
        summary (dict): As :func:`summarize` gives it.

    Returns:
        str: The text.
    """
    records = []
    for row in summary['rows']:
        record = dict(
            pair=row['pair'],
            row=row['title'],
            config=row['config'],
            seeds=len(row['seeds']),
            seeds_asked=len(row['seeds_asked']),
        )
        for metric in summary['metrics']:
            cell = row['metrics'].get(metric, {})
            for part in ('mean', 'std', 'gain', 'gap_closed'):
                record[f'{metric} {part}'] = cell.get(part)
        for rival, differences in row.get('paired', {}).items():
            for metric, difference in differences.items():
                for part in ('mean', 'low', 'high'):
                    name = f'{metric} - {rival} {part}'
                    record[name] = difference[part]
        record.update({cost: row.get(cost) for cost in _COSTS})
        records.append(record)
    return pd.DataFrame(records, dtype=object).to_csv(index=False)


_COSTS = {
    'iterations': ('iterations', '{:.0f}'.format),
    'seconds_per_iter': ('s/iter', '{:.3f}'.format),
    'training_seconds': ('training', lambda s: f'{s / 60:.1f} min'),
    'parameters': ('parameters', lambda n: f'{n / 1e6:.2f} M'),
    'flops': ('FLOPs', lambda n: f'{n / 1e9:.2f} G'),
    'latency': ('latency', lambda s: f'{s * 1000:.1f} ms'),
}


def _value(cell: dict | None, decimals: int) -> str:
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


def _interval(difference: dict | None, decimals: int) -> str:
    if difference is None:
        return DASH
    mean, low, high = (
        f'{difference[end]:+.{decimals}f}' for end in ('mean', 'low', 'high')
    )
    bold = '**' if difference['low'] > 0 or difference['high'] < 0 else ''
    return f'{bold}{mean} [{low}, {high}]{bold}'
