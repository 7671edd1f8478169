"""Recorders that MMRazor does not have: of several modules, of the truth."""
from typing import Optional, Sequence

import torch
from mmengine.model import BaseModel
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import TASK_UTILS
from torch import nn


@TASK_UTILS.register_module()
class ModuleListOutputsRecorder(BaseRecorder):
    """Record the outputs of several modules as one list.

    For hierarchical features of a backbone that returns its last stage only.

    Args:
        source (Sequence[str]): Names of the modules, finest stride first.
    """

    def __init__(self, source: Sequence[str]) -> None:
        super().__init__(source)
        self._recorders = [ModuleOutputsRecorder(name) for name in source]

    def prepare_from_model(self, model: Optional[nn.Module] = None) -> None:
        """Hook every module."""
        for recorder in self._recorders:
            recorder.initialize(model)

    def __enter__(self) -> None:
        super().__enter__()
        for recorder in self._recorders:
            recorder.__enter__()

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        # One entry a forward, itself a list with an entry a module.
        buffers = [r.data_buffer for r in self._recorders]
        self._data_buffer = [list(records) for records in zip(*buffers)]
        for recorder in self._recorders:
            recorder.__exit__(exc_type, exc_value, traceback)
            recorder.reset_data_buffer()


@TASK_UTILS.register_module()
class GroundTruthRecorder(BaseRecorder):
    """Record a map of the truth, for the ``label`` source of the boundary
    term.

    Args:
        source (str): The field of the data samples to stack,
            ``'gt_sem_seg'``.
    """

    def __init__(self, source: str = 'gt_sem_seg') -> None:
        super().__init__(source)
        self._recording = False

    def prepare_from_model(self, model: Optional[BaseModel] = None) -> None:
        """Hook the model's own call, which gets the data samples."""
        model.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self._recording:
            return
        samples = kwargs.get('data_samples',
                             args[1] if len(args) > 1 else None)
        if not samples or self.source not in samples[0]:
            raise ValueError(
                f'`{self.source}` is needed for label affinities, but the '
                'batch has none. Load it in the training pipeline, or choose '
                "another `source` of the boundary term ('semantic', "
                "'feature').")
        self._data_buffer.append(
            torch.cat([getattr(s, self.source).data for s in samples]))

    def __enter__(self) -> None:
        super().__enter__()
        self._recording = True

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False
