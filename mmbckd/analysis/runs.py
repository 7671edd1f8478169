"""The one reader of training runs.

A run leaves its config, logs and checkpoints in its work directory. Its log
alone can be kept in a folder of results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..datasets.checks import dataset_class
from ..models.utils import is_distillation

# In a validation's record, but no metric.
_NO_METRICS = {'data_time', 'time', 'memory', 'step', 'epoch', 'iter'}


class Log(NamedTuple):
    """What a run has logged, in order of its iterations.

    Attributes:
        train (list[dict]): A record per log interval, with its ``iter``.
        val (list[dict]): A record per validation: its ``iter``, the metrics.
    """

    train: list[dict]
    val: list[dict]

    @property
    def metrics(self) -> dict:
        """The metrics of the last validation; empty if there was none."""
        last = self.val[-1] if self.val else {}
        return {k: v for k, v in last.items() if k not in _NO_METRICS}

    @property
    def ends_with_validation(self) -> bool:
        """Whether nothing was trained after the last validation."""
        last = max((record['iter'] for record in self.train), default=0)
        return bool(self.val) and self.val[-1]['iter'] >= last

    @property
    def iterations(self) -> int | None:
        """The iterations trained; None if no training was logged."""
        return self.train[-1]['iter'] if self.train else None

    @property
    def seconds_per_iter(self) -> float | None:
        """Median seconds of an iteration, data included; None if not logged.

        The first three records are left out: they hold the warm-up.
        """
        times = [record['time'] for record in self.train if 'time' in record]
        return median(times[min(3, len(times) // 2) :]) if times else None

    @property
    def training_seconds(self) -> float | None:
        """Seconds of the training, without validations; None if not logged.

        mmengine logs means over the last iterations: each stands for those
        since the record before it.
        """
        timed = [record for record in self.train if 'time' in record]
        ends = pairwise([0, *(record['iter'] for record in timed)])
        seconds = [
            record['time'] * (end - start)
            for record, (start, end) in zip(timed, ends)
        ]
        return sum(seconds) if seconds else None


class Run(NamedTuple):
    """A training run.

    Attributes:
        name (str): Its title.
        path (str): Where it was read from.
        config (Config): Its config.
        log (Log): Its log, with nothing in it if there was none.
        checkpoint (Path, optional): Its last checkpoint. Of a distillation,
            only ``…_student.pth`` beside it may be left.
    """

    name: str
    path: str
    config: Config
    log: Log
    checkpoint: Path | None

    @property
    def distills(self) -> bool:
        """Whether it trained a student that is only part of its model."""
        return is_distillation(self.config)

    @property
    def progress(self) -> tuple[int, int | None]:
        """Iterations (or epochs) done, and those of the whole training."""
        loop = self.config.get('train_cfg') or {}
        last = self.log.train[-1:] + self.log.val[-1:]
        if 'max_epochs' in loop:
            unit, limit = 'epoch', loop['max_epochs']
            # That of the last training record may not be over.
            done = [r['epoch'] - ('step' in r) for r in last if 'epoch' in r]
        else:
            unit, limit = 'iter', loop.get('max_iters')
            done = [r['iter'] for r in last]
        if self.checkpoint is not None:
            done.append(_number(self.checkpoint, unit) or 0)
        return max(done, default=0), limit


def read_run(path: str, name: str, checkpoint: str | None = None) -> Run:
    """Read a run.

    Args:
        path (str): A work directory of ``mim train``, or a config file
            ``NAME.py`` that has its checkpoint ``NAME.pth`` (that of an
            exported file's config: ``NAME.onnx``) or its log ``NAME.json``
            beside it.
        name (str): Its title.
        checkpoint (str, optional): A checkpoint to take instead of the one
            that is found; a config file needs nothing beside it then.
            Defaults to None.

    Returns:
        Run: The run.

    Raises:
        FileNotFoundError: If it has no config or no log.
        ValueError: If its config or log cannot be read, or if there are
            several configs.
    """
    place = Path(path)
    named = None if checkpoint is None else Path(checkpoint)
    if named is not None and not named.is_file():
        raise FileNotFoundError(
            f'Expected a checkpoint of {name}, but {named} does not exist. '
            'Correct the path.'
        )
    if place.is_dir():
        return Run(
            name,
            path,
            _read_config(_find_config(place)),
            read_log(_find_logs(place)),
            named or find_checkpoint(place),
        )
    log = place.with_suffix('.json')
    beside = place.with_suffix('.pth')
    if not beside.is_file():
        beside = place.with_suffix('.onnx')
    if (
        place.suffix != '.py'
        or not place.is_file()
        or not (named or log.is_file() or beside.is_file())
    ):
        raise FileNotFoundError(
            'Expected the work directory of a training, or a config NAME.py '
            'with NAME.pth or NAME.json beside it, but got '
            f'{path}{"" if place.exists() else ", which does not exist"}. '
            'Correct the path.'
        )
    return Run(
        name,
        path,
        _read_config(place),
        read_log([log] if log.is_file() else []),
        named or (beside if beside.is_file() else None),
    )


def training_config(work_dir: Path) -> Config:
    """The config by which a run was last trained.

    A test in the same work directory writes its own in place of the run's,
    but not beside the log.

    Args:
        work_dir (Path): The work directory.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If it has no config or no log.
        ValueError: If its config cannot be read, or if there are several.
    """
    beside_log = _find_logs(work_dir)[-1].with_name('config.py')
    return _read_config(
        beside_log if beside_log.is_file() else _find_config(work_dir)
    )


def run_titles(paths: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """The titles of runs: those given, or short ones of :func:`run_names`.

    Args:
        paths (Sequence[str]): The runs.
        names (Sequence[str], optional): A title for each.

    Returns:
        list[str]: A title for each, all different.

    Raises:
        ValueError: If there are no runs, or not as many different titles.
    """
    if not paths:
        raise ValueError(
            'Expected one or more work directories to compare, but got none.'
        )
    if names is None:
        return run_names(paths)
    if len(names) != len(paths) or len(set(names)) < len(names):
        raise ValueError(
            f'Expected {len(paths)} names, one for each run and '
            f'all different, but got {list(names)}.'
        )
    return list(names)


def run_names(paths: Sequence[str]) -> list[str]:
    """Short titles for runs, from the names of their folders or configs.

    What all names end in alike, such as the data set, is left out; the first
    two parts of OpenMMLab's names, algorithm and model, always stay.

    Args:
        paths (Sequence[str]): The runs.

    Returns:
        list[str]: A title for each, all different.

    Example:
        >>> run_names(['work_dirs/fpn_r18_1xb8-1k_camvid',
        ...            'work_dirs/bckd_fpn_r50_fpn_r18_1xb8-1k_camvid'])
        ['fpn_r18', 'bckd_fpn_r50_fpn_r18']
    """
    places = [Path(path).resolve() for path in paths]
    parts = [
        (p.stem if p.suffix == '.py' else p.name).split('_') for p in places
    ]
    while (
        len(parts) > 1
        and all(len(p) > 2 for p in parts)
        and len({p[-1] for p in parts}) == 1
    ):
        parts = [p[:-1] for p in parts]
    names = ['_'.join(p) for p in parts]
    if len(set(names)) < len(names):  # of one config, in several folders
        names = [
            f'{place.parent.name}/{name}' for place, name in zip(places, names)
        ]
    return [
        name if names.index(name) == i else f'{name} ({i + 1})'
        for i, name in enumerate(names)
    ]


def read_log(files: list[Path]) -> Log:
    """Read a log that may be in several parts, one for each (re)start.

    A part takes the place of what the earlier ones have logged from its
    first iteration on: a run is resumed from its last checkpoint and makes
    again what it had made since.

    Args:
        files (list[Path]): mmengine's JSON logs, oldest first.

    Returns:
        Log: One log.

    Raises:
        ValueError: If a file is no such log.
    """
    joined: list[dict] = []
    for file in files:
        if part := _by_iteration(_read_records(file)):
            start = min(record['iter'] for record in part)
            joined = [r for r in joined if r['iter'] < start] + part
    return Log(
        train=[r for r in joined if 'step' in r],
        val=[r for r in joined if 'step' not in r],
    )


def results_log(folder: str | Path, name: str) -> Log | None:
    """A log that :func:`copy_log` has kept.

    Args:
        folder (str | Path): The folder of results.
        name (str): The name of the run.

    Returns:
        Log, optional: None if there is none, or none with a validation.
    """
    file = Path(folder) / f'{name}.json'
    log = read_log([file]) if file.is_file() else None
    return log if log and log.val else None


def copy_log(folder: str | Path, name: str, log: Log) -> None:
    """Keep the log of a finished run as ``NAME.json``.

    One that is there already stays as it is. Of a run that was resumed, the
    parts are joined.

    Args:
        folder (str | Path): The folder of results.
        name (str): The name of the run.
        log (Log): Its log.
    """
    if results_log(folder, name):
        return
    records = [*log.train]
    for record in log.val:
        counted = dict(record, step=record.get('epoch', record['iter']))
        del counted['iter']
        counted.pop('epoch', None)
        # Behind the last iteration that it comes after.
        before = sum(r['iter'] <= record['iter'] for r in log.train)
        records.insert(before + len(records) - len(log.train), counted)
    (Path(folder) / f'{name}.json').write_text(
        ''.join(f'{json.dumps(record)}\n' for record in records)
    )


def _read_records(file: Path) -> list[dict]:
    """The lines of a JSON log."""
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
            if 'step' not in records[-1]:
                raise ValueError('there is no "step"')
        except (ValueError, TypeError) as error:
            if number == len(lines) and isinstance(
                error, json.JSONDecodeError
            ):
                break  # being written, or cut off
            raise ValueError(
                'Expected a log of mmengine, with a JSON object in each line, '
                f'but line {number} of {file} is none ({error}). Repair or '
                'remove the line.'
            ) from None
    return records


def _by_iteration(records: list[dict]) -> list[dict]:
    """The records with an ``iter`` each; ``step`` stays with training's.

    mmengine's validations count epochs if the log does, or nothing (all are
    at step 0) where the loop has iterations only and the config does not say
    ``log_metric_by_epoch=False``.
    """
    iteration, epoch, out = 0, None, []
    for record in records:
        if 'iter' in record:
            iteration, epoch = record['iter'], record.get('epoch')
            out.append(record)
            continue
        metrics = {
            k: v
            for k, v in record.items()
            if k not in _NO_METRICS and isinstance(v, (int, float))
        }
        if not metrics:
            continue
        if epoch is not None and record['step'] == epoch:
            out.append(dict(metrics, iter=iteration, epoch=epoch))
        else:
            out.append(dict(metrics, iter=max(iteration, record['step'])))
    return out


def find_checkpoint(work_dir: Path) -> Path | None:
    """The last checkpoint of a run or, if that is all, its best one.

    Args:
        work_dir (Path): The work directory.

    Returns:
        Path, optional: The checkpoint's name as the run gave it, without
        ``_student``, or None if there is none.
    """
    found = [
        file.with_name(file.name.replace('_student.pth', '.pth'))
        for file in sorted(work_dir.glob('*.pth'))
        if re.match(r'(iter|epoch|best)_', file.name)
    ]
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():  # the path is as it was where the run was made
        last = work_dir / Path(pointer.read_text().strip()).name
        if last in found:
            return last
    numbered = [f for f in found if _number(f, '(?:iter|epoch)') is not None]
    return max(
        numbered,
        key=lambda file: _number(file, '(?:iter|epoch)'),
        default=found[-1] if found else None,
    )


def _number(checkpoint: Path, unit: str) -> int | None:
    """N of ``iter_N.pth`` or ``epoch_N.pth``."""
    match = re.fullmatch(rf'{unit}_(\d+)', checkpoint.stem)
    return int(match[1]) if match else None


def _find_config(work_dir: Path) -> Path:
    configs = sorted(work_dir.glob('*.py'))
    if not configs:
        raise FileNotFoundError(
            'Expected the work directory of a training, with the config that '
            f'mmengine writes there, but {work_dir} has no *.py. Name the '
            'folder that `mim train` got as --work-dir.'
        )
    if len(configs) > 1:
        raise ValueError(
            f'Expected one config in {work_dir}, but found '
            f'{[file.name for file in configs]}. Remove those that are not '
            'of the run, or give every run a --work-dir of its own.'
        )
    return configs[0]


def _find_logs(work_dir: Path) -> list[Path]:
    """The JSON log of each time that the run was started."""
    # Beside TIMESTAMP.json there is scalars.json, which says the same and
    # what else was sent to the visualizer; digits sort before letters.
    logs = [
        sorted(folder.glob('*.json'))[:1]
        for folder in sorted(work_dir.glob('*/vis_data'))
    ]
    if not any(logs):
        raise FileNotFoundError(
            f'Expected a log {work_dir}/TIMESTAMP/vis_data/*.json, which '
            "mmengine's LocalVisBackend writes, but there is none. Wait for "
            'the first log interval, or add LocalVisBackend to `vis_backends` '
            'of the config.'
        )
    return sum(logs, [])


def _read_config(file: Path) -> Config:
    try:
        return Config.fromfile(file)
    # Whatever happens when somebody's Python file is run.
    except Exception as error:
        raise ValueError(
            f'Expected a config of mmengine, but {file} cannot be read '
            f'({type(error).__name__}: {error}). Correct it, or install what '
            'it imports.'
        ) from error


def check_same_data(runs: list[Run]) -> tuple[str, ...]:
    """Check that runs are validated on the same data.

    Args:
        runs (list[Run]): The runs.

    Returns:
        tuple[str]: The classes, empty if no config says.

    Raises:
        ValueError: If a run differs from the first in its validation data
            set, apart from where that lies, or in its classes.
    """
    first = None
    for run in runs:
        dataset = (run.config.get('val_dataloader') or {}).get('dataset')
        if dataset is None:
            continue
        has = {k: dataset.get(k) for k in ('type', 'ann_file', 'data_prefix')}
        has['classes'] = _classes(run)
        first = first or (run, has)
        for key, value in has.items():
            if value != first[1][key]:
                raise ValueError(
                    'Expected runs that are validated on the same data, but '
                    f'`{key}` of the validation data is {first[1][key]} in '
                    f'{first[0].name} and {value} in {run.name}. Compare '
                    'them in separate reports.'
                )
    return first[1]['classes'] if first else ()


def _classes(run: Run) -> tuple[str, ...]:
    dataset = run.config.val_dataloader.dataset
    scope = run.config.get('default_scope', 'mmengine')
    with DefaultScope.overwrite_default_scope(scope):
        try:
            metainfo = DATASETS.build({**dataset, 'lazy_init': True}).metainfo
        except AssertionError:
            # VOC and some others look for their files even so.
            defaults = dataset_class(dataset['type']).METAINFO
            metainfo = {**defaults, **(dataset.get('metainfo') or {})}
    return tuple(metainfo.get('classes') or ())
