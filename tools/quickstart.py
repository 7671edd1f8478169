"""Distill a small student on generated street scenes, and compare.

Trains the student alone and with BCKD beside CWD (same seed, same budget),
evaluates both and the shipped teacher, and writes a table, a picture and a
page that compares the three. Steps that are done are skipped, and a training
that was stopped is resumed.
"""

import argparse
import copy
import json
import os
import signal
import sys
import time
from contextlib import (
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# OpenMMLab's packages take seconds to import and print warnings: each step
# imports what it needs, when its progress bar is there.

ROOT = Path(__file__).resolve().parents[1]
NUM_TRAIN, NUM_VAL, SIZE = 240, 60, (128, 256)
# Of tables/quickstart.yml.
ROWS = ('teacher', 'student', 'BCKD + CWD')

NEXT = """\
Next, with models and data of your own (docs/en/user_guides shows each step):
  mim run mmbckd new_config STUDENT.py TEACHER.py --teacher-ckpt TEACHER.pth
  mim train mmrazor bckd_STUDENT.py"""


def draw_scenes(data_root: Path, bars: Progress) -> None:
    """Draw the street scenes, unless they are there already."""
    bar = bars.add_task('draw street scenes', total=NUM_TRAIN + NUM_VAL)
    from mmbckd.datasets.street_scenes import write_dataset

    write_dataset(
        str(data_root),
        NUM_TRAIN,
        NUM_VAL,
        SIZE,
        seed=0,
        progress=lambda done, total: bars.update(bar, completed=done),
    )
    bars.update(bar, completed=NUM_TRAIN + NUM_VAL)


def read_jobs(work_dir: Path) -> list:
    """The runs of teacher, student and distilled student, with seed 0."""
    from mmbckd.analysis.tables import plan, read_table

    table = read_table(ROOT / 'tables' / 'quickstart.yml')
    jobs = {
        job.row.title: job for job in plan(table, work_dir) if job.seed == 0
    }
    return [jobs[title] for title in ROWS]


def train(jobs: list, bars: Progress) -> None:
    """Train the students side by side, unless they are trained already."""
    import torch

    from mmbckd.analysis.tables.execution import (
        Device,
        run_jobs,
        visible_gpus,
    )

    tasks = {
        job: bars.add_task(f'train {job.row.title}', total=job.limit)
        for job in jobs
    }

    def show() -> None:
        for job, task in tasks.items():
            run = job.started()
            if run is not None:
                bars.update(task, completed=run.progress[0])

    show()
    todo = [job for job in jobs if job.log() is None]
    # Two trainings of one thread each end sooner than one after the other
    # with two.
    threads = len(os.sched_getaffinity(0)) // max(1, len(todo))
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, threads)))
    with repeatedly(show):
        gpus = visible_gpus(range(int(torch.cuda.is_available())))
        failures = run_jobs(
            todo, [Device(gpus)] * len(todo), say=lambda text: None
        )
    show()
    if failures:
        sys.exit('\n'.join(['Failed:', *failures]))


@contextmanager
def repeatedly(action, seconds: float = 1):
    """Call it every few seconds while the context runs.

    A file that a training is just writing may not be readable; the next call
    sees it whole.
    """
    over = Event()

    def loop() -> None:
        while not over.wait(seconds):
            with suppress(OSError, ValueError):
                action()

    thread = Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def compare(teacher, jobs: list, work_dir: Path, bars: Progress) -> dict:
    """Evaluate the models by their plain checkpoints, as deployed.

    Returns:
        dict: The metrics of each model.
    """
    bar = bars.add_task('evaluate and compare', total=len(jobs) + 3)
    import numpy as np
    from mmengine.dataset import pseudo_collate
    from mmengine.runner import Runner
    from mmseg.utils import register_all_modules

    from mmbckd.analysis.report import write_report

    register_all_modules(init_default_scope=False)
    student = jobs[0]
    picks = np.linspace(0, NUM_VAL - 1, 5).astype(int).tolist()
    metrics, predictions = {}, {}
    for job in (teacher, *jobs):
        checkpoint = Path(teacher.row.checkpoint)
        if job is not teacher:
            checkpoint = job.last_checkpoint
        if job not in (teacher, student):
            checkpoint = checkpoint.with_stem(f'{checkpoint.stem}_student')
        cfg = copy.deepcopy((job if job is teacher else student).config)
        cfg.load_from = str(checkpoint)
        # To start and to end workers would take longer than to read images.
        cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.work_dir = str(work_dir / 'test')
        cfg.experiment_name = f'{job.work_dir.name}_{time.time_ns()}'
        runner = Runner.from_cfg(cfg)
        title = job.row.title
        metrics[title] = {k: float(v) for k, v in runner.test().items()}
        dataset = runner.test_dataloader.dataset
        predictions[title] = runner.model.test_step(
            pseudo_collate([dataset[i] for i in picks])
        )
        bars.advance(bar)
    draw_predictions(predictions, work_dir / 'quickstart.png')
    (work_dir / 'quickstart.json').write_text(json.dumps(metrics, indent=2))
    bars.advance(bar)
    write_report(
        [*(str(job.work_dir) for job in jobs), teacher.row.config],
        str(work_dir / 'report.html'),
        names=[*(job.row.title for job in jobs), teacher.row.title],
    )
    bars.advance(bar)
    return metrics


def draw_predictions(predictions: dict, out: Path) -> None:
    """Image, truth and the models' label maps, side by side.

    Args:
        predictions (dict): A list of data samples of each model.
        out (Path): The picture to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    import mmcv
    import numpy as np
    from matplotlib.patches import Patch

    from mmbckd.datasets import StreetScenesDataset

    meta = StreetScenesDataset.METAINFO
    palette = np.array(meta['palette'], np.uint8)
    titles = ['image', 'truth', *predictions]
    rows = list(zip(*predictions.values()))
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(3.2 * len(titles), 1.7 * len(rows) + 0.7),
        layout='constrained',
    )
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
            for n, c in zip(meta['classes'], palette)
        ],
        loc='outside lower center',
        ncol=len(palette),
        frameon=False,
    )
    figure.savefig(out, dpi=100)
    plt.close(figure)


def metrics_table(metrics: dict) -> Table:
    """A column for each model."""
    from mmbckd.analysis.formatting import heading

    table = Table(title=f'{NUM_VAL} validation images', box=None)
    table.add_column('')
    for title in metrics:
        table.add_column(title, justify='right')
    for key in next(iter(metrics.values())):
        table.add_row(
            heading(key),
            *(f'{values[key]:.2f}' for values in metrics.values()),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir',
        type=Path,
        default='work_dirs/quickstart',
        help='folder of the runs (default: %(default)s)',
    )
    parser.add_argument(
        '--data-root',
        type=Path,
        default='data/street_scenes',
        help='folder to draw the scenes into (default: %(default)s)',
    )
    args = parser.parse_args()
    # SIGTERM stops the trainings as SIGINT does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.time()
    os.environ['MMBCKD_STREET_SCENES'] = str(args.data_root)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    console = Console(file=sys.stdout)
    bars = Progress(
        TextColumn('{task.description:24}'),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        console=console,
        # Logs of a training are many seconds apart.
        speed_estimate_period=180,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    log = open(  # noqa: SIM115
        args.work_dir / 'quickstart.log', 'a', encoding='utf-8'
    )
    try:
        with bars, redirect_stdout(log), redirect_stderr(log):
            draw_scenes(args.data_root, bars)
            teacher, *jobs = read_jobs(args.work_dir)
            train(jobs, bars)
            metrics = compare(teacher, jobs, args.work_dir, bars)
    except KeyboardInterrupt:
        sys.exit('Stopped, with all trainings. The same command resumes them.')
    print(
        f'{(time.time() - start) / 60:.1f} minutes. What the steps have '
        f'logged is in {args.work_dir}.\n\n{NEXT}\n'
    )
    console.print(metrics_table(metrics))
    print(
        f'\npicture  {args.work_dir / "quickstart.png"}\n'
        f'report   {args.work_dir / "report.html"}'
    )


if __name__ == '__main__':
    main()
