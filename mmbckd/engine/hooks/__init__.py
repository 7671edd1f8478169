from .bckd_visualization_hook import BCKDVisualizationHook
from .calibration_hook import CalibrationHook
from .channels_last_hook import ChannelsLastHook
from .data_check_hook import DataCheckHook
from .iteration_seed_hook import IterationSeedHook
from .student_checkpoint_hook import (
    StudentCheckpointHook,
    export_student_checkpoint,
    save_plain_checkpoint,
)

__all__ = [
    'BCKDVisualizationHook',
    'CalibrationHook',
    'ChannelsLastHook',
    'DataCheckHook',
    'IterationSeedHook',
    'StudentCheckpointHook',
    'export_student_checkpoint',
    'save_plain_checkpoint',
]
