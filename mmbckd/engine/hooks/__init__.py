from .data_check_hook import DataCheckHook
from .student_checkpoint_hook import (StudentCheckpointHook,
                                      export_student_checkpoint)

__all__ = [
    'DataCheckHook', 'StudentCheckpointHook', 'export_student_checkpoint'
]
