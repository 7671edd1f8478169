"""The runs of a table: their commands and their progress."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ...models.utils import is_distillation, type_name
from ...stack import distribution_of
from ..runs import Log, Run, read_run, training_config
from .definition import Pair, Row, Table, read_config, row_config

_BASES = Path(__file__).resolve().parents[2] / '.mim' / 'configs' / '_base_'
_LIBRARIES = ('mmseg', 'mmdet')


class Job(NamedTuple):
    """A run of a row with one of its seeds.

    Attributes:
        title (str): The name for messages.
        row (Row): The row.
        seed (int): The seed.
        work_dir (Path): Its work directory, named after the run.
        teacher (Path, optional): The teacher's checkpoint, if another job has
            to train it first.
    """

    title: str
    row: Row
    seed: int
    work_dir: Path
    teacher: Path | None = None

    @property
    def config(self) -> Config:
        """The config of its row."""
        return row_config(self.row)

    @property
    def limit(self) -> int:
        """The number of iterations or epochs of the whole training."""
        loop = self.config.train_cfg
        return loop.get('max_epochs') or loop['max_iters']

    @property
    def unit(self) -> str:
        """The unit of :attr:`limit`."""
        return (
            'epochs' if 'max_epochs' in self.config.train_cfg else 'iterations'
        )

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint at the end of the training."""
        unit = 'epoch' if self.unit == 'epochs' else 'iter'
        return self.work_dir / f'{unit}_{self.limit}.pth'

    def log(self) -> Log | None:
        """The log of a finished run, None if the run is not finished.

        A run is finished when its last validation is. Where a checkpoint was
        only tested, the log holds that test as its validation.
        """
        run = None if self.row.checkpoint is not None else self.started()
        log = Log([], []) if run is None else run.log
        if (
            run is not None
            and run.progress[0] >= self.limit
            and log.ends_with_validation
        ):
            return log
        metrics = self._last_test()
        if metrics is None:
            return None
        tested = dict(metrics, iter=log.iterations or 0)
        return Log(log.train, [*log.val, tested])

    def _last_test(self) -> dict | None:
        """What the last test of the checkpoint to test has measured."""
        checkpoint = self._checkpoint_to_test()
        for file in sorted(self.work_dir.glob('*/[0-9]*.json'), reverse=True):
            config = file.parent / 'vis_data' / 'config.py'
            if (
                config.is_file()
                and checkpoint is not None
                and Config.fromfile(config).get('load_from') == checkpoint
            ):
                return json.loads(file.read_text())
        return None

    def started(self) -> Run | None:
        """The run so far; None if nothing is logged yet.

        Raises:
            ValueError: If the work directory holds a run of another seed, or
                with other options.
        """
        try:
            run = read_run(str(self.work_dir), self.row.title)
        except FileNotFoundError:
            return None
        config = training_config(self.work_dir)
        seed = (config.get('randomness') or {}).get('seed')
        if seed != self.seed:
            raise ValueError(
                f'Expected a run with the seed {self.seed} in '
                f'{self.work_dir}, but its config says {seed}. Move it away, '
                'or choose another --work-dir.'
            )
        options = dict(self.row.options)
        if not _has_options(config, options):
            raise ValueError(
                f'Expected a run with the options {options} in '
                f'{self.work_dir}, but its config has others. Move it away, '
                'or give the row another `variant`.'
            )
        return run

    @property
    def steps_made(self) -> int:
        """Iterations or epochs at the checkpoint from which it goes on."""
        pointer = self.work_dir / 'last_checkpoint'
        if not pointer.is_file():
            return 0
        name = Path(pointer.read_text().strip()).name
        made = re.search(r'_(\d+)\.pth$', name)
        return int(made[1]) if made and (self.work_dir / name).is_file() else 0

    def command(self, launcher: str = 'none', gpus: int = 0) -> list[str]:
        """The command that starts or resumes the run.

        Args:
            launcher (str): 'none' or 'pytorch'. Defaults to 'none'.
            gpus (int): Processes, 0 for the CPU. Defaults to 0.

        Returns:
            list[str]: ``mim train …``, or ``mim test …`` if only the
            evaluation of a checkpoint is missing.
        """
        options = [f'{k}={_typed(v)}' for k, v in self.row.options]
        options.append(f'randomness.seed={self.seed}')
        if self.teacher is not None:
            options.append(f'model.teacher_ckpt={self.teacher}')
        checkpoint = self._checkpoint_to_test()
        todo = ['train', _package(self.config), self._config_to_run()]
        if checkpoint is not None:
            todo[0] = 'test'
            todo += ['--checkpoint', checkpoint]
        elif self.steps_made:
            todo.append('--resume')
        return [
            'mim',
            *todo,
            '--launcher',
            launcher,
            '--gpus',
            str(gpus),
            '--work-dir',
            str(self.work_dir),
            '--cfg-options',
            *options,
        ]

    def _checkpoint_to_test(self) -> str | None:
        """The row's own, or the last one of a finished training."""
        if self.row.checkpoint is None and self.last_checkpoint.is_file():
            return str(self.last_checkpoint)
        return self.row.checkpoint

    def write_config(self) -> None:
        """Write the config that :meth:`command` names, if derived."""
        if '::' in self.row.config:
            file = Path(self._config_to_run())
            file.parent.mkdir(parents=True, exist_ok=True)
            text = derive_config(self.row.config)
            # Jobs of other seeds may read it now.
            part = file.with_name(f'{file.name}.{os.getpid()}.{self.seed}')
            part.write_text(text)
            part.replace(file)

    def _config_to_run(self) -> str:
        if '::' not in self.row.config:
            return os.path.relpath(self.row.config)
        # Not in the work directory: mmengine writes one of this name there.
        return str(
            self.work_dir.parent / 'derived_configs' / f'{self.row.name}.py'
        )


def plan(table: Table, work_dir: str | Path) -> list[Job]:
    """The runs of a table, teachers first.

    Args:
        table (Table): The table.
        work_dir (str | Path): The folder of all work directories. A run with
            the seed 0 has the one that ``mim train`` would choose.

    Returns:
        list[Job]: A job for each row and seed; rows of one config share
        their jobs.

    Raises:
        ValueError: If a config cannot be trained, if its teacher is missing
            or is not that of its pair, or if two runs have one name.
    """
    jobs: dict[Path, Job] = {}

    def add(job: Job) -> None:
        other = jobs.setdefault(job.work_dir, job)
        if _what_runs(other) != _what_runs(job):
            raise ValueError(
                f'Expected a name for each run, but two runs are called '
                f'{job.work_dir.name}, {other.title!r} and {job.title!r}, '
                'which differ in config, options or checkpoint. Give one a '
                '`variant`, or its config another name.'
            )

    for pair in table.pairs:
        for row in pair.rows:
            _check_row(row)
        teacher = _teacher_job(pair, Path(work_dir))
        if teacher is not None:
            add(teacher)
        for row in (pair.student, *pair.distilled):
            needed = None
            if teacher is not None and row in pair.distilled and _learns(row):
                if teacher.row.checkpoint is None:
                    needed = teacher.last_checkpoint
                elif row_config(row).model.get('teacher_ckpt') is None:
                    handed = 'model.teacher_ckpt', teacher.row.checkpoint
                    row = row._replace(options=(*row.options, handed))
            for seed in row.seeds:
                add(
                    Job(
                        f'{pair.title}: {row.title}, seed {seed}',
                        row,
                        seed,
                        Path(work_dir) / row.run_name(seed),
                        needed,
                    )
                )
    waited_for = {job.teacher for job in jobs.values()}
    return sorted(
        jobs.values(), key=lambda job: job.last_checkpoint not in waited_for
    )


def _what_runs(job: Job) -> tuple:
    row = job.row
    return row.config, dict(row.options), row.checkpoint, job.teacher


def _has_options(config: Config, options: dict) -> bool:
    """Whether options would change nothing in a config."""
    changed = copy.deepcopy(config)
    try:
        changed.merge_from_dict(options)
    except (KeyError, TypeError):  # it lacks what they change
        return False
    return changed.to_dict() == config.to_dict()


def _check_row(row: Row) -> None:
    config = row_config(row)
    loop = config.get('train_cfg') or {}
    if (
        config.get('model')
        and (
            is_distillation(config)
            or config.get('default_scope') in _LIBRARIES
        )
        and (loop.get('max_epochs') or loop.get('max_iters'))
    ):
        return
    raise ValueError(
        'Expected a config of mmseg or mmdet, or a distillation, with '
        '`model`, and `max_iters` or `max_epochs` in `train_cfg`, for the row '
        f'{row.title!r}, but {row.config} lacks one of them. Correct it, or '
        'name another config.'
    )


def _learns(row: Row) -> bool:
    """Whether a row learns from a teacher."""
    config = row_config(row)
    return is_distillation(config) and not type_name(config.model).endswith(
        ('SelfDistill', 'QuantizationAwareTraining')
    )


def _teacher_job(pair: Pair, work_dir: Path) -> Job | None:
    """The job of the teacher: a test of its checkpoint, or its training.

    It is trained if the configs of the pair name no checkpoint, or one in
    ``work_dirs``.
    """
    row = pair.teacher
    if row is None:
        return None
    for distilled in filter(_learns, pair.distilled):
        checkpoint = _teacher_checkpoint(distilled, row)
        if (
            row.checkpoint is None
            and checkpoint is not None
            and not checkpoint.startswith('work_dirs')
        ):
            row = row._replace(checkpoint=checkpoint)
    seed = row.seeds[0]
    return Job(
        f'{pair.title}: {row.title}, seed {seed}',
        row,
        seed,
        work_dir / row.run_name(seed),
    )


def _teacher_checkpoint(row: Row, teacher: Row) -> str | None:
    """The ``teacher_ckpt`` of a distillation, whose teacher is checked.

    A teacher that is written out in the config has no name to compare; a
    checkpoint that does not fit it is refused when the run starts.
    """
    model = row_config(row).model
    found = model.get('teacher')
    if not isinstance(found, (str, dict)):
        raise ValueError(
            f'Expected the `teacher` in the config of {row.name} as a file or '
            f'a model, but got {found!r}. Correct the config.'
        )
    name = found if isinstance(found, str) else found.get('cfg_path')
    if name is not None and Path(name).stem != teacher.name:
        raise ValueError(
            f'Expected {teacher.name} as teacher of {row.name}, but its '
            f'config names {name}. Correct the row or the teacher.'
        )
    checkpoint = model.get('teacher_ckpt')
    if checkpoint is None and isinstance(found, dict):
        weights = found.get('init_cfg') or {}
        if found.get('pretrained') or weights.get('type') == 'Pretrained':
            raise ValueError(
                f'Expected a `teacher_ckpt` in the config of {row.name}, '
                'which can be tested, but its teacher is pretrained without '
                'one. Name the checkpoint there, or leave the teacher out of '
                'the table.'
            )
    return checkpoint


def derive_config(config: str) -> str:
    """A config that adds our hooks and metrics to one of upstream.

    Args:
        config (str): Such as ``'mmseg::pspnet/…'``.

    Returns:
        str: The text of a config that inherits from it.
    """
    found = read_config(config)
    bases = [config, str(_BASES / 'distill_runtime.py')]
    lines = []
    if found.default_scope == 'mmseg':
        bases.append(str(_BASES / 'seg_evaluator.py'))
        lines = [
            'val_evaluator = {{_base_.seg_evaluator}}',
            'test_evaluator = val_evaluator',
        ]
    elif 'segm' in found.val_evaluator.get('metric', ()):
        lines = [
            "val_evaluator = dict(type='CocoBoundaryMetric')",
            'test_evaluator = val_evaluator',
        ]
    if is_distillation(found):  # MMRazor's would evaluate the teacher too
        lines.append("val_cfg = dict(_delete_=True, type='ValLoop')")
    inherited = ''.join(f'    {base!r},\n' for base in bases)
    return f'_base_ = [\n{inherited}]\n' + ''.join(f'{x}\n' for x in lines)


def described_work(job: Job, per_step: int = 1) -> str:
    """The remaining work of a job, in words.

    Args:
        job (Job): A job that is not done.
        per_step (int): Processes that each take a batch. Defaults to 1.

    Returns:
        str: Such as '1000 iterations x batch 8 = 8000 images'.
    """
    if job.row.checkpoint is not None or job.last_checkpoint.is_file():
        return 'evaluation of a checkpoint'
    batch = job.config.train_dataloader.batch_size * per_step
    left = steps_left(job)
    text = f'{left} {job.unit} x batch {batch}'
    if job.unit == 'iterations':
        text += f' = {left * batch} images'
    made_for = re.search(r'_(\d+)xb\d+', job.row.name)
    if made_for and int(made_for[1]) != per_step:
        text += f' (the config is made for {made_for[1]} processes)'
    return text


def steps_left(job: Job) -> int:
    """Iterations or epochs from the last checkpoint to the end."""
    return job.limit - job.steps_made


def minutes_left(job: Job) -> float | None:
    """Estimated minutes of a job, from the logs of runs of its config.

    Args:
        job (Job): A job that is not done.

    Returns:
        float, optional: None if no log tells.
    """
    if job.row.checkpoint is not None:
        return None
    for folder in sorted(job.work_dir.parent.glob(f'{job.row.name}*')):
        if re.fullmatch(r'(_seed-\d+)?', folder.name[len(job.row.name) :]):
            try:
                log = read_run(str(folder), folder.name).log
            except FileNotFoundError:
                continue
            seconds = log.seconds_per_iter
            if seconds is None:
                continue
            steps = _iterations(job, log.train)
            if steps is not None:
                return seconds * steps / 60
    return None


def gpu_hours_left(job: Job, cost: dict, per_step: int = 1) -> float:
    """Estimated GPU hours of a job.

    Args:
        job (Job): A job that is not done.
        cost (dict): Of its config, by :func:`step_cost`.
        per_step (int): Processes that each take a batch. Defaults to 1.

    Returns:
        float: Those of training; of the evaluation of a checkpoint 0.
    """
    if job.row.checkpoint is not None or job.last_checkpoint.is_file():
        return 0.0
    hours = cost['gpu_hours'] * steps_left(job) / job.limit
    if job.unit == 'iterations':  # more images with every process
        hours *= per_step / cost['gpus']
    return hours


def _iterations(job: Job, train: list[dict]) -> float | None:
    """The iterations left; None if no whole epoch was logged yet."""
    if job.unit == 'iterations':
        return steps_left(job)
    last = train[-1]
    if last.get('epoch', 1) < 2:
        return None
    whole = [r['iter'] for r in train if r['epoch'] < last['epoch']]
    return steps_left(job) * max(whole) / (last['epoch'] - 1)


def _typed(value: Any) -> str:
    """A value as mmengine reads it from the command line."""
    if isinstance(value, list):
        return f'[{",".join(map(_typed, value))}]'
    return str(value)


def _package(config: Config) -> str:
    """What mim calls the package whose train.py runs a config."""
    if is_distillation(config):
        return 'mmrazor'
    return distribution_of(config.default_scope)
