"""Compare the rows of a table class by class.

IoU and Boundary IoU of every class, means over seeds, with the differences to
the student alone. The logs do not hold them: the checkpoints that the runs of
the table have left in --work-dir are evaluated once, and what came out is kept
in --out.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.device import get_device
from mmengine.utils import track_progress

from mmbckd.analysis.class_scores import ClassScores
from mmbckd.analysis.formatting import markdown_table
from mmbckd.analysis.predictions import Predictor, build_student
from mmbckd.analysis.runs import Log, Run
from mmbckd.analysis.tables import Job, plan, read_table
from mmbckd.analysis.tables.definition import Table, table_parser
from mmbckd.analysis.tables.summary import DASH
from mmbckd.engine.hooks.student_checkpoint_hook import student_checkpoint_path

# By their keys in logs, the names of a class's own.
METRICS = {'mIoU': 'IoU', 'mBIoU': 'Boundary IoU'}


def parse_args() -> argparse.Namespace:
    parser = table_parser(__doc__)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument(
        '--device', help='where to run the models (default: a GPU if any)'
    )
    return parser.parse_args()


def evaluate(job: Job, device: str) -> dict | None:
    """The scores of a run's checkpoint; None if it has none yet."""
    checkpoint = str(job.row.checkpoint or job.last_checkpoint)
    if not (
        '://' in checkpoint
        or Path(checkpoint).is_file()
        or Path(student_checkpoint_path(checkpoint)).is_file()
    ):
        print(f'{job.title} is left out: there is no {checkpoint}')
        return None
    run = Run(job.title, '', job.config, Log([], []), checkpoint)
    model = build_student(run, device)
    if model is None:
        raise ValueError(
            'Expected a table of semantic segmentation, but '
            f'{job.row.name} is a {job.config.model.type}.'
        )
    predictor = Predictor([run], [model])
    scores = ClassScores(len(predictor.classes), predictor.ignore_index)

    def add(index: int) -> None:
        maps = predictor.predict(index)
        scores.add(maps.predictions[0], maps.truth)

    print(job.title)
    track_progress(add, range(len(predictor)))
    print()
    found = scores.per_class()
    return dict(
        classes=list(predictor.classes),
        scores={
            metric: [
                None if np.isnan(value) else round(float(value), 2)
                for value in found[metric]
            ]
            for metric in METRICS
        },
    )


def pairs_of(definition: Table, runs: dict[str, dict]) -> Iterator[dict]:
    """The pairs of the table with the runs that were evaluated."""
    for pair in definition.pairs:
        rows = []
        for row in pair.rows:
            names = [row.run_name(seed) for seed in row.seeds]
            found = {name: runs[name] for name in names if name in runs}
            rows.append(dict(title=row.title, runs=found, seeds=len(names)))
        yield dict(title=pair.title, student=pair.student.title, rows=rows)


def table(found: dict) -> list[str]:
    """What was found, in Markdown: two tables for each pair."""
    lines: list[str] = []
    for pair in found['pairs']:
        rows = [row for row in pair['rows'] if row['runs']]
        for metric, name in METRICS.items():
            lines += ['', *_pair(pair, rows, metric, name)] if rows else []
    return lines[1:]


def _pair(pair: dict, rows: list[dict], metric: str, name: str) -> list[str]:
    means = {
        row['title']: np.mean(
            np.array(
                [run['scores'][metric] for run in row['runs'].values()], float
            ),
            axis=0,
        )
        for row in rows
    }
    student = means.get(pair['student'])
    classes = next(iter(rows[0]['runs'].values()))['classes']

    def cell(title: str, index: int) -> str:
        value = means[title][index]
        if np.isnan(value):
            return DASH
        if student is None or title == pair['student']:
            return f'{value:.2f}'
        gain = value - student[index]
        gained = DASH if np.isnan(gain) else f'{gain:+.2f}'
        return f'{value:.2f} ({gained})'

    def heading(row: dict) -> str:
        found, asked = len(row['runs']), row.get('seeds', len(row['runs']))
        return row['title'] + (
            f', {found} of {asked} seeds' if found < asked else ''
        )

    return markdown_table(
        [f'{name} ↑', *map(heading, rows)],
        [
            [label, *(cell(title, index) for title in means)]
            for index, label in enumerate(classes)
        ],
    )


def write(out: Path, found: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + '\n')


def main() -> None:
    args = parse_args()
    out = Path(args.out)
    kept = json.loads(out.read_text())['pairs'] if out.is_file() else []
    runs = {
        name: run
        for pair in kept
        for row in pair['rows']
        for name, run in row['runs'].items()
    }
    try:
        definition = read_table(args.table)
        for job in plan(definition, args.work_dir):
            name = job.work_dir.name
            if name not in runs:
                run = evaluate(job, args.device or get_device())
                if run is not None:
                    runs[name] = run
                    write(out, dict(pairs=list(pairs_of(definition, runs))))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'per_class.py: {error}')
    found = dict(pairs=list(pairs_of(definition, runs)))
    write(out, found)
    print('\n'.join(table(found)) or 'No run of the table has a checkpoint.')


if __name__ == '__main__':
    main()
