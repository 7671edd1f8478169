"""Recorders that MMRazor does not have: of several modules, of models that
classify masks, of tokens, of RoI heads, of the truth."""

from .ground_truth_recorder import (
    GroundTruthRecorder,
    instance_id_map,
    label_map,
)
from .instance_features_recorder import InstanceFeaturesRecorder
from .mask_query_recorders import (
    MaskClassLogitsRecorder,
    MaskQueryLogitsRecorder,
)
from .module_list_outputs_recorder import ModuleListOutputsRecorder
from .module_tokens_recorder import ModuleTokensRecorder
from .recorded_modules import recorded_modules

__all__ = [
    'GroundTruthRecorder',
    'InstanceFeaturesRecorder',
    'MaskClassLogitsRecorder',
    'MaskQueryLogitsRecorder',
    'ModuleListOutputsRecorder',
    'ModuleTokensRecorder',
    'instance_id_map',
    'label_map',
    'recorded_modules',
]
