import os
import os.path as osp
from collections import OrderedDict
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

_STUDENT = 'architecture.'


def student_checkpoint_path(checkpoint: str) -> str:
    """Where the student of a checkpoint is written: ``…_student.pth``."""
    stem, suffix = osp.splitext(checkpoint)
    return f'{stem}_student{suffix}'


def export_student_checkpoint(checkpoint: str,
                              out: Optional[str] = None) -> str:
    """Write the student of a distillation checkpoint as a plain checkpoint.

    What is written loads with ``strict=True`` into the student's own config,
    in a Python that has neither mmbckd nor mmrazor, and holds nothing but
    tensors and plain types, so that ``torch.load(weights_only=True)`` takes
    it as it is.

    Args:
        checkpoint (str): A checkpoint of any MMRazor distillation.
        out (str, optional): The file to write. Defaults to None:
            ``NAME_student.pth`` beside ``NAME.pth``.

    Returns:
        str: The file written.

    Raises:
        FileNotFoundError: If ``checkpoint`` does not exist.
        ValueError: If it holds no student.
    """
    if not osp.isfile(checkpoint):
        raise FileNotFoundError(
            f'Expected the checkpoint of a distillation, but {checkpoint} '
            'does not exist.')
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    state_dict = OrderedDict(
        (k[len(_STUDENT):], v)
        for k, v in loaded.get('state_dict', loaded).items()
        if k.startswith(_STUDENT))
    if not state_dict:
        raise ValueError(
            f'Expected the checkpoint of a distillation, with weights named '
            f'"{_STUDENT}…", but {checkpoint} has none. A checkpoint of a '
            'model trained alone is a plain one already.')
    out = out or student_checkpoint_path(checkpoint)
    save_plain_checkpoint(state_dict, loaded.get('meta', {}), out)
    return out


def save_plain_checkpoint(state_dict: dict, meta: dict, out: str) -> None:
    """Write weights, and of ``meta`` what inference wants, as plain types.

    Args:
        state_dict (dict): The weights.
        meta (dict): The ``meta`` of a checkpoint of mmengine.
        out (str): The file to write.
    """
    kept = ('dataset_meta', 'epoch', 'iter', 'mmengine_version')
    plain = dict(
        meta=_plain({k: meta[k]
                     for k in kept if k in meta}),
        state_dict=state_dict)
    # Never a truncated file under the final name.
    torch.save(plain, f'{out}.tmp')
    os.replace(f'{out}.tmp', out)


def _plain(value: Any) -> Any:
    """The same value in types that need no allow-list to be loaded."""
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value


@HOOKS.register_module()
class StudentCheckpointHook(Hook):
    """Keep, beside each checkpoint of a distillation, its student alone.

    ``iter_80000.pth`` gets ``iter_80000_student.pth``, the best checkpoint
    likewise, and where ``CheckpointHook`` removes one (``max_keep_ckpts``)
    its student goes as well. See :func:`export_student_checkpoint` for what
    is written. In a run that is no distillation the hook does nothing.
    """

    # After CheckpointHook, which is VERY_LOW.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._saved = False

    def before_train(self, runner: Runner) -> None:
        """Take up the students of the run that is resumed."""
        last = runner.message_hub.runtime_info.get('last_ckpt')
        if last and osp.isfile(student_checkpoint_path(last)):
            self._note(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note that there will be a checkpoint to export."""
        self._saved = True

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Export what has been saved."""
        self._export(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Export what has been saved."""
        self._export(runner)

    def after_val_epoch(self, runner: Runner, *args, **kwargs) -> None:
        """Export what has been saved."""
        self._export(runner)

    @master_only
    def _export(self, runner: Runner) -> None:
        if not self._saved:
            return
        self._saved = False
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        if not hasattr(model, 'architecture'):
            return
        for source in self._sources(runner):
            student = student_checkpoint_path(source)
            if not osp.isfile(source):
                if osp.isfile(student):
                    os.remove(student)
            elif not osp.isfile(student) or \
                    osp.getmtime(student) < osp.getmtime(source):
                export_student_checkpoint(source, student)
                runner.logger.info(f'The plain student is saved to {student}')
        self._note(runner)

    def _sources(self, runner: Runner) -> list:
        """Checkpoints whose students this run is to keep up with."""
        info = runner.message_hub.runtime_info
        named = [
            v for k, v in info.items()
            if v and (k == 'last_ckpt' or k.startswith('best_ckpt'))
        ]
        return list(dict.fromkeys([*info.get('student_ckpts', []), *named]))

    def _note(self, runner: Runner) -> None:
        # Kept in the message hub, so that a resumed run knows them.
        runner.message_hub.update_info(
            'student_ckpts',
            [s for s in self._sources(runner) if osp.isfile(s)])
