"""The logs of tables that tools/run_table.py kept in results/."""

from collections.abc import Callable, Iterator
from pathlib import Path

from mmbckd.analysis.runs import Log, results_log
from mmbckd.analysis.tables import summarize
from mmbckd.analysis.tables.definition import Row, Table


def kept_log(root: Path, table: Table) -> Callable[[Row, int], Log | None]:
    """The logs of a table that tools/run_table.py kept."""
    folder = root / 'results' / table.name
    return lambda row, seed: results_log(folder, row.run_name(seed))


def summarized(root: Path, table: Table) -> Iterator[tuple[Row, dict]]:
    """The rows of a table, and what their kept logs say."""
    rows = (row for pair in table.pairs for row in pair.rows)
    return zip(rows, summarize(table, kept_log(root, table))['rows'])
