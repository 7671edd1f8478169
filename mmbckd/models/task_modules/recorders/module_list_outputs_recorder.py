from collections.abc import Sequence

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

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook every module."""
        for recorder in self._recorders:
            recorder.initialize(model)

    def __enter__(self) -> None:
        super().__enter__()
        for recorder in self._recorders:
            recorder.__enter__()

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        # One record per forward: a list with one output per module.
        buffers = [r.data_buffer for r in self._recorders]
        self._data_buffer = [list(records) for records in zip(*buffers)]
        for recorder in self._recorders:
            recorder.__exit__(exc_type, exc_value, traceback)
            recorder.reset_data_buffer()
