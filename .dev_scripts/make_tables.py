"""Write the tables of the README files from logs and benchmarks' JSON, and
the results of the metafiles from logs: `make tables`, which has tools/ on the
path of modules.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; no figure
in it is typed. NAME is one of TABLES, a file that a tool in TOOLS has
written, such as ``results/NAME/edge_auc.json``, or the definition of a table,
such as ``tables/camvid.yml``: it is filled from the logs in
``results/camvid``.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import benchmark_tables
import export_student
import step_cost
import sweep_tables
from analysis_tools import (
    check_connectivity,
    edge_auc,
    error_by_distance,
    gradient_norms,
    mask_oracles,
    per_class,
)
from cost_tables import step_costs
from kept_logs import kept_log
from metafile_results import fill_metafile, results

from mmbckd.analysis.tables import read_table, summarize, to_markdown

ROOT = Path(__file__).resolve().parents[1]


def defined(name: str, rows: Sequence[str] = ()) -> list[str]:
    """A table by its definition, from the logs that run_table.py kept.

    ``rows`` are the titles of those to show beside teacher and student, if not
    all.
    """
    table = read_table(ROOT / name)
    if rows:
        titles = {row.title for pair in table.pairs for row in pair.distilled}
        if unknown := set(rows) - titles:
            sys.exit(
                f'Expected rows among {sorted(titles)} of {name}, but got '
                f'{sorted(unknown)}. Correct the page that shows them.'
            )
        table = table._replace(
            rivals=[title for title in table.rivals if title in rows],
            pairs=[
                pair._replace(
                    distilled=[r for r in pair.distilled if r.title in rows]
                )
                for pair in table.pairs
            ],
        )
    costs = ROOT / 'results' / table.name / 'costs.json'
    return to_markdown(
        summarize(
            table,
            kept_log(ROOT, table),
            **json.loads(costs.read_text()) if costs.exists() else {},
        )
    )


def written(name: str) -> list[str]:
    """A table of a file that a tool has written."""
    path = ROOT / name
    (tool,) = (
        tool for prefix, tool in TOOLS.items() if path.name.startswith(prefix)
    )
    return tool.table(json.loads(path.read_text()))


# By what the names of the files that they write begin with.
TOOLS = {
    'connectivity': check_connectivity,
    'edge_auc': edge_auc,
    'error_by_distance': error_by_distance,
    'export_student': export_student,
    'gradients': gradient_norms,
    'mask_oracles': mask_oracles,
    'per_class': per_class,
    'step_cost': step_cost,
}
PAGES = (
    'README.md',
    'benchmarks/README.md',
    'configs/quickstart/README.md',
    'configs/mmseg/README.md',
    'configs/mmdet/README.md',
    'results/README.md',
    'docs/en/step_costs.md',
    'docs/en/user_guides/deploy.md',
)
TABLES = {
    **benchmark_tables.TABLES,
    **sweep_tables.TABLES,
    'step_costs': step_costs,
}


def fill(text: str) -> str:
    """The same text with every table made anew."""

    def table(match: re.Match) -> str:
        name = match[2]
        if name.endswith('.yml'):
            lines = defined(name, match[3].split(', ') if match[3] else ())
        else:
            try:
                lines = TABLES[name](ROOT) if name in TABLES else written(name)
            except FileNotFoundError:
                lines = ['not run']
        return '\n'.join([match[1], *lines, match[4]])

    return re.sub(
        r'(<!-- table: ([\w./-]+)(?: \(([^)]+)\))? -->)\n'
        r'(?:.*?\n)??(<!-- end -->)',
        table,
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check', action='store_true', help='only say whether it would change'
    )
    args = parser.parse_args()
    files = {ROOT / name: fill for name in PAGES}
    metafiles = [
        *(ROOT / 'configs').glob('*/*/metafile.yml'),
        *(ROOT / 'configs').glob('*/metafile.yml'),
    ]
    files.update(
        dict.fromkeys(metafiles, partial(fill_metafile, found=results(ROOT)))
    )
    outdated = {
        file: filled
        for file, filled_in in files.items()
        if (filled := filled_in(file.read_text())) != file.read_text()
    }
    if args.check and outdated:
        names = ', '.join(str(file.relative_to(ROOT)) for file in outdated)
        sys.exit(
            f'Expected what the logs and results say in {names}, but got '
            'something else. Run make tables.'
        )
    for file, filled in outdated.items():
        file.write_text(filled)


if __name__ == '__main__':
    main()
