"""Distil a small student on generated street scenes, and compare.

Trains the student alone and with boundary and context distillation (same
seed, same budget), evaluates both and the shipped teacher, and writes a table,
a picture and a page that compares the three.
"""
import argparse
import json
import os
import os.path as osp
import subprocess
import sys
import time
from typing import Dict, List, Tuple

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402
import mmcv  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from mmbckd.datasets.street_scenes_generator import (  # noqa: E402
    CLASSES, PALETTE, write_dataset)
from mmbckd.report import write_report  # noqa: E402
from mmbckd.report.tables import heading  # noqa: E402

CONFIGS = osp.join(
    osp.dirname(osp.dirname(osp.abspath(__file__))), 'configs', 'quickstart')
TEACHER = 'fpn_r18-w16_1xb8-3k_street-scenes-128x256'
STUDENT = 'fpn_r18-w8_1xb8-600_street-scenes-128x256'
BCKD = f'bckd_fpn_r18-w16_{STUDENT}'
NUM_TRAIN, NUM_VAL, SIZE = 240, 60, (128, 256)

NEXT = f"""\
Next, with your own data and models: take the config of a student that you can
train already, and put the lines of "Add it to your config" in README.md (or of
configs/quickstart/{BCKD}.py) on top of it. Then:
  mim train mmrazor YOUR_CONFIG.py"""


def train(package: str, name: str, work_dir: str) -> str:
    """Run ``mim train``; return the work directory of the run."""
    out = osp.join(work_dir, name)
    command = [
        'mim', 'train', package,
        osp.relpath(osp.join(CONFIGS, f'{name}.py')), '--gpus', '0',
        '--work-dir', out
    ]
    print(f'\n$ {" ".join(command)}', flush=True)
    if subprocess.run([sys.executable, '-m', *command]).returncode:
        sys.exit(f'Training {name} failed: what it said is above.')
    return out


def evaluate(name: str, checkpoint: str, work_dir: str,
             picks: List[int]) -> Tuple[dict, List[SegDataSample]]:
    """Evaluate a plain checkpoint under a plain config.

    Returns:
        tuple: The metrics, and the predictions on the images ``picks``.
    """
    cfg = Config.fromfile(osp.join(CONFIGS, f'{name}.py'))
    cfg.load_from = checkpoint
    cfg.work_dir = osp.join(work_dir, 'test')
    cfg.experiment_name = osp.splitext(osp.basename(checkpoint))[0]
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    dataset = runner.test_dataloader.dataset
    batch = pseudo_collate([dataset[i] for i in picks])
    metrics = {k: float(v) for k, v in metrics.items()}
    return metrics, runner.model.test_step(batch)


def draw(predictions: Dict[str, List[SegDataSample]], out: str) -> None:
    """Image, truth and the models' label maps, side by side."""
    palette = np.array(PALETTE, np.uint8)
    titles = ['image', 'truth', *predictions]
    rows = list(zip(*predictions.values()))
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(3.2 * len(titles), 1.7 * len(rows) + 0.7),
        layout='constrained')
    for row, samples in zip(axes, rows):
        truth = samples[0].gt_sem_seg.data[0]
        image = mmcv.imread(samples[0].img_path, channel_order='rgb')
        maps = [truth, *(s.pred_sem_seg.data[0] for s in samples)]
        panels = [image, *(palette[m.cpu()] for m in maps)]
        for axis, panel in zip(row, panels):
            axis.imshow(panel, interpolation='nearest')
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles):
        axis.set_title(title)
    figure.legend(
        handles=[
            Patch(facecolor=c / 255, edgecolor='0.5', label=n)
            for n, c in zip(CLASSES, palette)
        ],
        loc='outside lower center',
        ncol=len(CLASSES),
        frameon=False)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/quickstart')
    parser.add_argument('--data-root', default='data/street_scenes')
    args = parser.parse_args()
    start = time.time()

    print(f'Street scenes: {NUM_TRAIN} + {NUM_VAL} images in '
          f'{args.data_root}', flush=True)
    write_dataset(
        args.data_root,
        NUM_TRAIN,
        NUM_VAL,
        SIZE,
        seed=0,
        progress=lambda done, total: done % 60 or print(
            f'{done}/{total}', flush=True))
    os.environ['MMBCKD_STREET_SCENES'] = args.data_root

    alone = train('mmsegmentation', STUDENT, args.work_dir)
    distilled = train('mmrazor', BCKD, args.work_dir)

    # The distilled student is evaluated by its plain checkpoint under its
    # own config, as it would be deployed.
    register_all_modules(init_default_scope=False)
    checkpoints = {
        'teacher': (TEACHER, osp.join(CONFIGS, f'{TEACHER}.pth')),
        'student': (STUDENT, osp.join(alone, 'iter_600.pth')),
        'student + BCKD':
        (STUDENT, osp.join(distilled, 'iter_600_student.pth'))
    }
    picks = np.linspace(0, NUM_VAL - 1, 5).astype(int).tolist()
    metrics, predictions = {}, {}
    for title, (name, checkpoint) in checkpoints.items():
        metrics[title], predictions[title] = evaluate(name, checkpoint,
                                                      args.work_dir, picks)
    picture = osp.join(args.work_dir, 'quickstart.png')
    draw(predictions, picture)
    with open(osp.join(args.work_dir, 'quickstart.json'), 'w') as f:
        json.dump(metrics, f, indent=2)

    table = Table(title=f'{NUM_VAL} validation images', box=None)
    table.add_column('')
    for title in metrics:
        table.add_column(title, justify='right')
    for key in metrics['teacher']:
        table.add_row(heading(key),
                      *(f'{values[key]:.2f}' for values in metrics.values()))
    Console().print(table)
    page = write_report([alone, distilled,
                         osp.join(CONFIGS, f'{TEACHER}.py')],
                        osp.join(args.work_dir, 'report.html'),
                        names=['student', 'student + BCKD', 'teacher'])
    print(f'\nThe page to open is {page}, the picture {picture}, the table '
          f'{osp.join(args.work_dir, "quickstart.json")}; '
          f'{(time.time() - start) / 60:.1f} minutes.\n\n{NEXT}')


if __name__ == '__main__':
    main()
