"""Writes the config that distills a teacher into a student."""

from __future__ import annotations

import copy
import logging
import os
import os.path as osp
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import get_installed_path

from ..datasets.checks import check_config
from ..engine import hooks as our_hooks
from ..engine.hooks.data_check_hook import check_num_classes
from ..models.algorithms import FrozenTeacherDistill
from ..models.algorithms.teacher_inputs import Normalization
from ..models.utils import build_model, type_name
from .choice import BASE, Choice, complete_terms
from .formatting import Code, assignment, comment
from .stages import Stages

LIBRARIES = ('mmseg', 'mmdet')


class NewConfig(NamedTuple):
    """What was written, and what there is to say about it.

    Attributes:
        file (str): The config.
        stages (dict[str, Stages]): The feature maps of student and teacher.
        normalization (str): How the normalizations of both differ.
        todo (list[str]): What is to be done before the training.
        command (str): What starts the training.
    """

    file: str
    stages: dict[str, Stages]
    normalization: str
    todo: list[str]
    command: str


def write_config(
    student: str,
    teacher: str,
    teacher_ckpt: str | None = None,
    out: str | None = None,
    force: bool = False,
) -> NewConfig:
    """Write the config that distills a teacher into a student with BCKD.

    Both are built and run on a blank image; no weights are downloaded. What
    is compared is chosen as :class:`Choice` says, and the written config is
    built before it takes its name.

    Args:
        student (str): The student's config, of mmseg or mmdet: a file, or
            ``'mmseg::…'``, ``'mmdet::…'``.
        teacher (str): The teacher's, in the same forms.
        teacher_ckpt (str, optional): The teacher's checkpoint, a file or a
            URL. Defaults to None: the one that mmseg or mmdet publishes with
            its config; else a path that does not exist, to be replaced.
        out (str, optional): The file to write. Defaults to None:
            ``bckd_STUDENT.py`` in the current folder.
        force (bool): Whether to replace a file. Defaults to False.

    Returns:
        NewConfig: What was written.

    Raises:
        FileExistsError: If ``out`` exists, without ``force``.
        FileNotFoundError: If a config, the checkpoint or the folder of
            ``out`` does not exist.
        ValueError: If a config is not one of a plain model of mmseg or mmdet,
            if the numbers of classes of student, teacher and data differ, or
            if the checkpoint is not the teacher's.
    """
    out = Path(osp.abspath(out or f'bckd_{Path(student).stem}.py'))
    _check_out(out, force)
    student_cfg, teacher_cfg = _load(student), _load(teacher)
    for cfg in (student_cfg, teacher_cfg):
        if out == Path(osp.abspath(cfg.filename)):
            raise ValueError(
                f'Expected a new file for the distillation, which inherits '
                f'from {cfg.filename}, but --out names that itself. Name '
                'another.'
            )
    library = student_cfg.default_scope
    if teacher_cfg.default_scope != library:
        raise ValueError(
            f'Expected two segmentors or two detectors, but {student} is of '
            f'{library} and {teacher} of {teacher_cfg.default_scope}. Name '
            'two configs of one library.'
        )
    if Config._is_lazy_import(student_cfg.filename):
        raise ValueError(
            f'Expected a text config as the student, but {student} imports '
            'what it names, and no config can inherit both ways. Write it as '
            'text: `python -c "from mmengine.config import Config; '
            f"Config.fromfile('{student_cfg.filename}').dump("
            "'student.py')\"`, and name that."
        )
    with _quiet(), DefaultScope.overwrite_default_scope(library):
        models = [_build(cfg) for cfg in (student_cfg, teacher_cfg)]
        datasets = [_dataset(cfg) for cfg in (student_cfg, teacher_cfg)]
        check_num_classes(models[0], datasets[0])
        choice = Choice(library, *models, _is_pretrained(student_cfg))
        note = _normalization_note(*models)
    todo = [
        *choice.todo,
        *_differing_classes(*datasets),
        *_hook_tasks(student_cfg),
    ]

    checkpoint = teacher_ckpt or _published(teacher)
    if checkpoint is None:
        checkpoint = f'path/to/{Path(teacher).stem}.pth'
        todo.append(
            "Set `teacher_ckpt` to the teacher's checkpoint. It is "
            f'{checkpoint} now, which the training refuses.'
        )
        about_checkpoint = 'To be set: the training refuses a missing file.'
    elif teacher_ckpt is None:
        about_checkpoint = 'Published with this teacher.'
    else:
        about_checkpoint = ''
        checkpoint = _path(teacher_ckpt, out.parent)

    todo += _data_problems(student_cfg)

    text = _text(
        student=_path(student, out.parent, in_base=True),
        teacher=_path(teacher, out.parent),
        checkpoint=checkpoint,
        about_checkpoint=about_checkpoint,
        student_cfg=student_cfg,
        choice=choice,
    )
    with tempfile.NamedTemporaryFile(
        dir=out.parent, prefix='.', suffix='.py', delete=False
    ) as stream:
        pass
    try:
        Path(stream.name).write_text(text, encoding='utf-8')
        _check_written(stream.name, models, teacher_ckpt)
        os.chmod(stream.name, 0o666 & ~_umask())
        os.replace(stream.name, out)
    except BaseException:
        os.unlink(stream.name)
        raise
    shown = osp.relpath(out) if Path.cwd() in out.parents else str(out)
    gpus = int(torch.cuda.is_available())
    return NewConfig(
        shown,
        choice.stages,
        note,
        todo,
        f'mim train mmrazor {shlex.quote(shown)} --gpus {gpus}',
    )


# What is read


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != '.py':
        raise ValueError(
            f'Expected the name of a Python config, but got {out}. Name it '
            'as --out NAME.py.'
        )
    if out.exists() and not force:
        raise FileExistsError(
            f'Expected a file that is new, but {out} exists. Name another '
            'with --out, or replace it with --force.'
        )
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f'Expected a folder {out.parent} to write to, but there is none. '
            'Make it, or name another file with --out.'
        )


def _load(name: str) -> Config:
    """The config of a plain model of mmseg or mmdet."""
    library, is_published, place = name.partition('::')
    file = name
    if is_published:
        if library not in LIBRARIES:
            raise ValueError(
                f'Expected a file, mmseg::… or mmdet::…, but got {name}. Only '
                'segmentors and detectors can be distilled.'
            )
        package = get_installed_path(library)
        file = osp.join(package, '.mim/configs', place)
    if not osp.isfile(file):
        raise FileNotFoundError(
            f'Expected the config of a model, but {file} does not exist. '
            'Correct the path, or the name after `::`.'
        )
    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # A config is code, which may do anything.
        raise ValueError(
            f'Expected {name} to be a config of mmengine, but it cannot be '
            f'read: {type(error).__name__}: {error}'
        ) from error
    if 'type' not in (cfg.get('model') or {}):
        raise ValueError(
            f'Expected {name} to be the config of a model, but it has no '
            '`model`. Name a config that can be trained on its own.'
        )
    if 'architecture' in cfg.model:
        raise ValueError(
            f'Expected {name} to be the config of a plain model, but it is '
            f'that of a distillation ({cfg.model.type}). Name the config of '
            'its student.'
        )
    if cfg.get('default_scope') not in LIBRARIES:
        raise ValueError(
            f"Expected {name} to have default_scope='mmseg' or 'mmdet', but "
            f'it has {cfg.get("default_scope")!r}. Only segmentors and '
            'detectors can be distilled.'
        )
    return cfg


def _build(cfg: Config) -> BaseModel:
    model = copy.deepcopy(cfg.model)
    _leave_out_weights(model)
    try:
        return build_model(model, cfg.get('data_preprocessor'))
    except Exception as error:
        raise ValueError(
            f'Expected the model of {cfg.filename} to be built, but that '
            f'raised {type(error).__name__}: {error}'
        ) from error


def _leave_out_weights(model: dict) -> None:
    """Turn off what loads weights while a model is built."""
    for part in _dicts(model):
        if part.get('pretrained'):
            part['pretrained'] = False if part['pretrained'] is True else None


# By its name in the registry, and by that of the class.
_PRETRAINED = ('Pretrained', 'PretrainedInit')


def _is_pretrained(cfg: Config) -> bool:
    """Whether a config names weights that its training begins with."""
    return bool(cfg.get('load_from')) or any(
        part.get('pretrained')
        or (
            type_name(part).rpartition('.')[2] in _PRETRAINED
            and part.get('checkpoint')
        )
        for part in _dicts(cfg.model)
    )


def _dicts(node: object) -> Iterator[dict]:
    """All dicts in a part of a config, the outer ones first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _dicts(child)


def _dataset(cfg: Config) -> BaseDataset | None:
    """What a config trains on, without its files; None if it does not say."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    while dataset is not None and 'type' in dataset:
        if 'dataset' in dataset:
            dataset = dataset['dataset']
        elif 'datasets' in dataset:
            dataset = dataset['datasets'][0]
        else:
            try:
                return DATASETS.build(
                    {**dataset, 'pipeline': [], 'lazy_init': True}
                )
            except Exception as error:
                raise ValueError(
                    f'Expected the training data of {cfg.filename} to be '
                    f'built, but that raised {type(error).__name__}: {error}'
                ) from error
    return None


def _published(name: str) -> str | None:
    """The URL of what mmseg or mmdet publishes with a config."""
    if '::' not in name:
        return None
    try:
        return get_config(name, pretrained=True).get('model_path')
    except AssertionError:  # It is listed without weights.
        return None


# What is said


def _normalization_note(student: BaseModel, teacher: BaseModel) -> str:
    ways = [
        Normalization.of(model.data_preprocessor)
        for model in (student, teacher)
    ]
    if None in ways:
        return (
            'The data preprocessors of student and teacher cannot be '
            'compared: make sure that both want the same normalization.'
        )
    if ways[0] == ways[1]:
        return 'Student and teacher normalize images alike.'
    return (
        f'The student normalizes by {ways[0]}, the teacher by {ways[1]}: the '
        'teacher gets the batch in its own.'
    )


def _hook_tasks(cfg: Config) -> list[str]:
    """What in a student's config depends on the model being the student."""
    hooks = [hook['type'] for hook in cfg.get('custom_hooks') or ()]
    parts = [str(hook) for hook in hooks if not hasattr(our_hooks, str(hook))]
    constructor = (cfg.get('optim_wrapper') or {}).get('constructor')
    parts += [str(constructor)] if constructor else []
    if not parts:
        return []
    return [
        f'Check that {", ".join(parts)} of the student still fits. What it '
        'gets as the model is the distillation, with the student as its '
        '`architecture`: leave out a hook that sets attributes of the model, '
        'as YOLOXModeSwitchHook does.'
    ]


def _differing_classes(*datasets: BaseDataset | None) -> list[str]:
    """The first class that two data sets name differently."""
    names = [getattr(d, 'metainfo', {}).get('classes') for d in datasets]
    for i, pair in enumerate(zip(*names) if None not in names else ()):
        if pair[0] != pair[1]:
            return [
                'Make sure that student and teacher mean the same classes: '
                f'that of index {i} is {pair[0]!r} in the data of the '
                f'student and {pair[1]!r} in those of the teacher.'
            ]
    return []


def _data_problems(cfg: Config) -> list[str]:
    if 'train_dataloader' not in cfg:
        return ['Add data to the config: the student has none to train on.']
    with _quiet():
        reports = check_config(cfg)
    return list(dict.fromkeys(p for r in reports for p in r.problems))


def _check_written(
    file: str, models: Sequence[BaseModel], teacher_ckpt: str | None
) -> None:
    """Build what was written as the training will, of the models built.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If student, teacher and checkpoint do not fit.
    """
    cfg = Config.fromfile(file)
    distiller = complete_terms(cfg.model.distiller)
    if len(distiller) == 1:  # its type
        distiller = dict(type='ConfigurableDistiller')
    if teacher_ckpt is not None and '://' in teacher_ckpt:
        teacher_ckpt = None
    with _quiet(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        FrozenTeacherDistill(*models, distiller, teacher_ckpt)


# What is written


def _runtime() -> Config:
    return Config.fromfile(BASE / 'distill_runtime.py')


def _path(name: str, folder: Path, in_base: bool = False) -> str:
    """How a config in a folder names a file.

    Relative to the folder if the file is in it or if both are in the current
    one, so that all can be moved together; absolute if not.
    """
    if '://' in name or '::' in name:
        return name
    file = osp.abspath(name)
    common = osp.commonpath([file, folder])
    if common != str(folder) and Path.cwd() not in [
        Path(common),
        *Path(common).parents,
    ]:
        return file
    relative = osp.relpath(file, folder)
    # A `_base_` is looked up from the config's folder, anything else is not.
    return relative if in_base else f'{{{{fileDirname}}}}/{relative}'


def _text(
    student: str,
    teacher: str,
    checkpoint: str,
    about_checkpoint: str,
    student_cfg: Config,
    choice: Choice,
) -> str:
    parts = [
        comment(f'Distills {Path(teacher).stem} into {Path(student).stem}.'),
        assignment('_base_', [student]),
        *_imports_and_hooks(student_cfg),
    ]
    # A config that a run has saved says where, which is the student's place.
    for name, value in (('work_dir', None), ('resume', False)):
        if student_cfg.get(name):
            parts.append(assignment(name, value))
    architecture = '{{_base_.model}}'
    if student_cfg.get('load_from'):
        parts += [
            comment(
                'The student begins with these. As `load_from` they would '
                'have to be those of the whole distillation.'
            ),
            assignment(
                'student_weights',
                dict(type='Pretrained', checkpoint=Code('_base_.load_from')),
            ),
            assignment('load_from', None),
        ]
        architecture = 'dict(_base_.model, init_cfg=student_weights)'
    model = dict(
        _delete_=True,
        type='mmrazor.FrozenTeacherDistill',
        architecture=Code(architecture),
        teacher=teacher,
        teacher_ckpt=checkpoint,
        distiller=choice.distiller,
    )
    comments = {
        f'distiller.{key}': text for key, text in choice.comments.items()
    }
    if about_checkpoint:
        comments['teacher_ckpt'] = about_checkpoint
    if choice.teacher_forward:
        model['teacher_forward'] = choice.teacher_forward
        comments['teacher_forward'] = (
            'A cascade of heads runs as a whole for its losses only.'
        )
    parts.append(assignment('model', model, comments))
    return '\n'.join(parts) + '\n'


def _imports_and_hooks(cfg: Config) -> list[str]:
    """What the student's config does not have of what all of ours have."""
    runtime, parts = _runtime(), []
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    missing = [i for i in runtime.custom_imports.imports if i not in imports]
    if missing:
        parts.append(
            assignment('custom_imports', dict(imports=imports + missing))
        )
    present = cfg.get('custom_hooks') or []
    names = [hook['type'] for hook in present]
    hooks = [
        hook.to_dict()
        for hook in runtime.custom_hooks
        if hook['type'] not in names
    ]
    if hooks:
        own = [Code('*_base_.custom_hooks')] if present else []
        parts.append(assignment('custom_hooks', own + hooks))
    return parts


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Log errors only: the training will log the rest."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
