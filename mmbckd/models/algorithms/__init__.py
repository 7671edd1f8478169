from .frozen_teacher_distill import FrozenTeacherDistill
from .quantization_aware_training import QuantizationAwareTraining

__all__ = ['FrozenTeacherDistill', 'QuantizationAwareTraining']
