"""Logs of finished runs, kept in a folder with nothing else of the runs."""

from __future__ import annotations

import json
from pathlib import Path

from ..report.runs import Log, read_log
from .definition import Row


def results_log(folder: str | Path, row: Row, seed: int) -> Log | None:
    """A log that :func:`copy_log` has put there.

    Args:
        folder (str | Path): The folder.
        row (Row): The row.
        seed (int): The seed of its run.

    Returns:
        Log, optional: None if there is none.
    """
    file = Path(folder) / f'{row.run_name(seed)}.json'
    log = read_log([file]) if file.is_file() else None
    return log if log and log.val else None


def copy_log(folder: str | Path, row: Row, seed: int, log: Log | None) -> None:
    """Write the log of a finished run as ``NAME[_seed-S].json``.

    One that is there already stays as it is. Of a run that was resumed the
    parts are joined.

    Args:
        folder (str | Path): The folder.
        row (Row): The row.
        seed (int): The seed of its run.
        log (Log, optional): The log; with None nothing is written.
    """
    file = Path(folder) / f'{row.run_name(seed)}.json'
    if log is None or results_log(folder, row, seed):
        return
    records = [*log.train]
    for record in log.val:
        counted = dict(record, step=record.get('epoch', record['iter']))
        del counted['iter']
        counted.pop('epoch', None)
        # Behind the last iteration that it comes after.
        before = sum(r['iter'] <= record['iter'] for r in log.train)
        records.insert(before + len(records) - len(log.train), counted)
    file.write_text(''.join(f'{json.dumps(r)}\n' for r in records))
