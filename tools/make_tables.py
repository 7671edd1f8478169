"""Write the tables of README.md from the logs under results/.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; no figure
in it is typed.
"""
import argparse
import json
import re
import sys
from pathlib import Path
from typing import Callable, Dict, List

from mmbckd.report.runs import read_log
from mmbckd.report.tables import lower_is_better

ROOT = Path(__file__).resolve().parents[1]
CAMVID = {
    'teacher': 'fpn_r50_1xb8-1.5k_camvid-160x240',
    'student alone': 'fpn_r18-w32_1xb8-1k_camvid-160x240',
    '+ CWD': 'cwd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240',
    '+ BCKD': 'bckd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240',
    '+ BCKD + CWD': 'bckd-cwd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240',
}


METRICS = ('mIoU', 'mBIoU', 'bF1', 'b0_err', 'b1_err', 'whole_regions',
           'stray_fragments')


def markdown(rows: Dict[str, dict]) -> List[str]:
    """A Markdown table of METRICS by row; what is missing is not run."""
    heads = (f'{k} {"↓" if lower_is_better(k) else "↑"}' for k in METRICS)
    lines = [f'| | {" | ".join(heads)} |', f'|---|{"---:|" * len(METRICS)}']
    for title, row in rows.items():
        cells = (f'{row[k]:.2f}' if k in row else 'not run' for k in METRICS)
        lines.append(f'| {title} | {" | ".join(cells)} |')
    return lines


def last_metrics(log: Path) -> dict:
    """The metrics of the last validation in mmengine's JSON log."""
    return read_log([log]).metrics if log.exists() else {}


def quickstart() -> List[str]:
    """The three models of the quickstart."""
    path = ROOT / 'results' / 'quickstart' / 'quickstart.json'
    return markdown(json.loads(path.read_text()))


def camvid() -> List[str]:
    """The runs on CamVid."""
    return markdown({
        title: last_metrics(ROOT / 'results' / 'camvid' / f'{name}.json')
        for title, name in CAMVID.items()
    })


TABLES: Dict[str, Callable[[], List[str]]] = dict(
    quickstart=quickstart, camvid=camvid)


def fill(text: str) -> str:
    """The same text with every table made anew."""

    def table(match: re.Match) -> str:
        return '\n'.join([match[1], *TABLES[match[2]](), match[3]])

    return re.sub(
        r'(<!-- table: (\w+) -->)\n.*?(<!-- end -->)',
        table,
        text,
        flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check',
        action='store_true',
        help='only say whether it would change')
    args = parser.parse_args()
    page = ROOT / 'README.md'
    text = page.read_text()
    filled = fill(text)
    if args.check and filled != text:
        sys.exit('README.md does not hold what the logs under results/ say: '
                 'run python tools/make_tables.py')
    page.write_text(filled)


if __name__ == '__main__':
    main()
