import io
import os
import os.path as osp
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

from ...models.utils import STUDENT, student_weights
from ..utils import unwrapped_model


def student_checkpoint_path(checkpoint: str) -> str:
    """Where the student of a checkpoint is written: ``…_student.pth``."""
    stem, suffix = osp.splitext(checkpoint)
    return f'{stem}_student{suffix}'


def export_student_checkpoint(checkpoint: str, out: str | None = None) -> str:
    """Write the student of a distillation checkpoint as a plain checkpoint.

    What is written loads with ``strict=True`` into the student's own config,
    in a Python that has neither mmbckd nor mmrazor, and holds nothing but
    tensors and plain types, so that ``torch.load(weights_only=True)`` takes
    it as it is.

    Args:
        checkpoint (str): A checkpoint of any MMRazor distillation.
        out (str | None): The file to write. Defaults to None:
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
            'does not exist.'
        )
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    state_dict = student_weights(loaded.get('state_dict', loaded))
    if not state_dict:
        raise ValueError(
            f'Expected the checkpoint of a distillation, with weights named '
            f'"{STUDENT}.…", but {checkpoint} has none. A checkpoint of a '
            'model trained alone is a plain one already.'
        )
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
        meta=_plain({k: meta[k] for k in kept if k in meta}),
        state_dict=state_dict,
    )
    with io.BytesIO() as stream:
        torch.save(plain, stream)
        get_file_backend(out).put(stream.getvalue(), out)


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
    likewise. See :func:`export_student_checkpoint` for what is written. When
    ``CheckpointHook`` removes a checkpoint during training
    (``max_keep_ckpts``, or a better one), its student goes as well. Other
    students stay, also without their full checkpoint. In a run that is no
    distillation the hook does nothing.
    """

    # After CheckpointHook, which is VERY_LOW.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._saved = False
        self._present: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Export what a run that was killed had saved but not exported."""
        last = runner.message_hub.runtime_info.get('last_ckpt') or ''
        self._saved = osp.dirname(last) in {
            hook.out_dir
            for hook in runner.hooks
            if isinstance(hook, CheckpointHook)
        }
        self._export(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note that there will be a checkpoint to export."""
        self._saved = True

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Note which checkpoints are there before others are removed."""
        self._note_present(runner)

    def before_val_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Note which checkpoints are there before others are removed."""
        self._note_present(runner)

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
    def _note_present(self, runner: Runner) -> None:
        # Looked up each time, since the user may remove one at any time: its
        # student may be all that is left.
        self._present = {path for path in _kept(runner) if osp.isfile(path)}

    @master_only
    def _export(self, runner: Runner) -> None:
        if not self._saved:
            return
        self._saved = False
        model = unwrapped_model(runner)
        if not hasattr(model, 'architecture'):
            return
        last = runner.message_hub.runtime_info.get('last_ckpt')
        for source in filter(None, {*_best(runner), last}):
            student = student_checkpoint_path(source)
            if osp.isfile(source) and (
                not osp.isfile(student)
                or osp.getmtime(student) < osp.getmtime(source)
            ):
                export_student_checkpoint(source, student)
                runner.logger.info(f'The plain student is saved to {student}')
        for pruned in self._present - _kept(runner):
            student = student_checkpoint_path(pruned)
            if not osp.isfile(pruned) and osp.isfile(student):
                os.remove(student)


def _best(runner: Runner) -> set[str]:
    """The best checkpoints so far, one for each metric that is watched."""
    return {
        path
        for key, path in runner.message_hub.runtime_info.items()
        if path and key.startswith('best_ckpt')
    }


def _kept(runner: Runner) -> set[str]:
    """The checkpoints that CheckpointHook keeps now and may remove later."""
    numbered = {
        hook.file_backend.join_path(
            hook.out_dir, hook.filename_tmpl.format(step)
        )
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook)
        for step in getattr(hook, 'keep_ckpt_ids', ())
    }
    return numbered | _best(runner)
