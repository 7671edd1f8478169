from .recorders import (
    GroundTruthRecorder,
    InstanceMaskLogitsRecorder,
    MaskClassLogitsRecorder,
    MaskQueryLogitsRecorder,
    ModuleListOutputsRecorder,
    ModuleTokensRecorder,
)

__all__ = [
    'GroundTruthRecorder',
    'InstanceMaskLogitsRecorder',
    'MaskClassLogitsRecorder',
    'MaskQueryLogitsRecorder',
    'ModuleListOutputsRecorder',
    'ModuleTokensRecorder',
]
