"""The results of the metafiles, from logs."""

import sys
from pathlib import Path

import yaml
from kept_logs import summarized

from mmbckd.analysis.tables import read_table
from mmbckd.analysis.tables.definition import Row, read_config


def results(root: Path) -> dict[str, list[dict]]:
    """The results of configs by their names, in the terms of metafiles."""
    found = {}
    for path in sorted((root / 'tables').glob('*.yml')):
        table = read_table(path)
        for row, line in summarized(root, table):
            if not row.variant and line['metrics'] and not is_overfit(row):
                found[row.name] = [
                    dict(
                        Task=task,
                        Metrics={
                            name: round(
                                line['metrics'][key]['mean'] * 10**power,
                                table.decimals - power,
                            )
                            for name, key, power in metrics
                            if key in line['metrics']
                        },
                    )
                    for task, metrics in TASKS.items()
                    if metrics[0][1] in line['metrics']
                ]
    return found


def is_overfit(row: Row) -> bool:
    """Whether a config is evaluated on what it is trained on."""
    config = read_config(row.config)
    train, val = (
        config[f'{part}_dataloader'].dataset for part in ('train', 'val')
    )
    return all(
        train.get(key) == val.get(key) for key in ('ann_file', 'data_prefix')
    )


def fill_metafile(text: str, found: dict[str, list[dict]]) -> str:
    """A metafile with the results of what was run, and no others."""
    metafile = yaml.safe_load(text)
    for model in metafile.get('Models', []):
        model.pop('Results', None)
        if model['Name'] in found:
            data = dict(Dataset=model['Metadata']['Training Data'])
            model['Results'] = [{**data, **r} for r in found[model['Name']]]
    return yaml.safe_dump(
        metafile, sort_keys=False, allow_unicode=True, width=sys.maxsize
    )


# By task: a metric's name in metafiles, its key in logs, and the power of ten
# between them. A config has the task if it has the first metric.
TASKS = {
    'Semantic Segmentation': [(k, k, 0) for k in ('mIoU', 'mBIoU', 'b0_err')],
    'Object Detection': [('box AP', 'coco/bbox_mAP', 2)],
    'Instance Segmentation': [
        ('mask AP', 'coco/segm_mAP', 2),
        ('boundary AP', 'coco/boundary_mAP', 2),
    ],
}
