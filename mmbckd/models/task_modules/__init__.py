from .recorders import (
    GroundTruthRecorder,
    MaskClassLogitsRecorder,
    ModuleListOutputsRecorder,
    ModuleTokensRecorder,
)

__all__ = [
    'GroundTruthRecorder',
    'MaskClassLogitsRecorder',
    'ModuleListOutputsRecorder',
    'ModuleTokensRecorder',
]
