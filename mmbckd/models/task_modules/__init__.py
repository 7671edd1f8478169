from .recorders import GroundTruthRecorder, ModuleListOutputsRecorder

__all__ = ['GroundTruthRecorder', 'ModuleListOutputsRecorder']
