from .recorders import (
    GroundTruthRecorder,
    MaskClassLogitsRecorder,
    MaskQueryLogitsRecorder,
    ModuleListOutputsRecorder,
    ModuleTokensRecorder,
)

__all__ = [
    'GroundTruthRecorder',
    'MaskClassLogitsRecorder',
    'MaskQueryLogitsRecorder',
    'ModuleListOutputsRecorder',
    'ModuleTokensRecorder',
]
