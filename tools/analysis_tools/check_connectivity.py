"""Show what the connectivity measures see, and what they do not.

The metrics of models on their validation images as they predict them, after a
majority filter, and after small connected regions were removed. A run is a
work directory of ``mim train``, or a config NAME.py that has its checkpoint
NAME.pth beside it.
"""

import json
from pathlib import Path

import numpy as np
from mmengine.utils import track_progress
from numpy import ndarray

from mmbckd.analysis.class_scores import ClassScores
from mmbckd.analysis.formatting import heading, markdown_table
from mmbckd.analysis.predictions import (
    Predictor,
    predictor_parser,
    read_predictor,
)
from mmbckd.evaluation.functional.label_filters import (
    majority_filter,
    remove_fragments,
)

METRICS = (
    'mIoU',
    'mBIoU',
    'bF1',
    'b0_err',
    'b1_err',
    'whole_regions',
    'stray_fragments',
)


def variants(
    prediction: ndarray, sizes: list[int], min_areas: list[int]
) -> dict[str, ndarray]:
    """A prediction as it is, filtered, and without fragments, by title."""
    found = {'': prediction}
    for size in sizes:
        title = f'majority filter, {size} x {size}'
        found[title] = majority_filter(prediction, size)
    for area in min_areas:
        title = f'without regions below {area} px'
        found[title] = remove_fragments(prediction, area)
    return found


def measure(
    predictor: Predictor, sizes: list[int], min_areas: list[int]
) -> dict:
    """The metrics of every run and variant, over all images."""
    scores: list[dict[str, ClassScores]] = [{} for _ in predictor.runs]

    def add(index: int) -> None:
        maps = predictor.predict(index)
        for found, prediction in zip(scores, maps.predictions):
            changed = variants(prediction, sizes, min_areas)
            for title, labels in changed.items():
                found.setdefault(
                    title,
                    ClassScores(
                        len(predictor.classes), predictor.ignore_index
                    ),
                ).add(labels, maps.truth)

    track_progress(add, range(len(predictor)))
    rows = []
    for run, found in zip(predictor.runs, scores):
        for variant, score in found.items():
            means = score.means()
            rows.append(
                dict(
                    name=run.name,
                    config=Path(run.config.filename).stem,
                    checkpoint=run.checkpoint.name,
                    variant=variant,
                    metrics={metric: means[metric] for metric in METRICS},
                )
            )
    return dict(images=len(predictor), rows=rows)


def table(found: dict) -> list[str]:
    """What was found, in Markdown."""
    return markdown_table(
        ['', *map(heading, METRICS)],
        [
            [
                ', '.join(filter(None, (row['name'], row['variant']))),
                *(f'{row["metrics"][metric]:.2f}' for metric in METRICS),
            ]
            for row in found['rows']
        ],
    )


def main() -> None:
    parser = predictor_parser(__doc__)
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=int,
        default=[5],
        help='sides of the majority filters in pixels, odd (default: 5)',
    )
    parser.add_argument(
        '--min-areas',
        nargs='+',
        type=int,
        default=[50],
        help='remove regions of fewer pixels (default: 50)',
    )
    args = parser.parse_args()
    try:
        # Wrong values are to show before the models are run.
        variants(np.zeros((1, 1), int), args.sizes, args.min_areas)
        predictor = read_predictor(
            args.paths, args.names, args.checkpoints, args.device
        )
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    found = measure(predictor, args.sizes, args.min_areas)
    print('\n' + '\n'.join(table(found)))
    if args.out:
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2) + '\n')


if __name__ == '__main__':
    main()
