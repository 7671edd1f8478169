from .recorders import (
    GroundTruthRecorder,
    MaskClassLogitsRecorder,
    ModuleListOutputsRecorder,
)

__all__ = [
    'GroundTruthRecorder',
    'MaskClassLogitsRecorder',
    'ModuleListOutputsRecorder',
]
