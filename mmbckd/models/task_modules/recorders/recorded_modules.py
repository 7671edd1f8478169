from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder

from .module_list_outputs_recorder import ModuleListOutputsRecorder


def recorded_modules(recorder: BaseRecorder) -> list[str]:
    """Names of the modules that a recorder listens to.

    Args:
        recorder (BaseRecorder): Any recorder of MMRazor's or of ours.

    Returns:
        list[str]: Empty if it records something else than modules.
    """
    if not isinstance(
        recorder, (ModuleOutputsRecorder, ModuleListOutputsRecorder)
    ):
        return []
    source = recorder.source
    return [source] if isinstance(source, str) else list(source)
