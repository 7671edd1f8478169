from .boundary_affinity_loss import BoundaryAffinityLoss
from .context_relation_loss import ContextRelationLoss
from .logit_loss import LogitLoss
from .pixel_wise_divergence import PixelWiseDivergence
from .semantic_affinity_loss import SemanticAffinityLoss
from .weighted_cross_entropy_loss import WeightedCrossEntropyLoss

__all__ = [
    'BoundaryAffinityLoss',
    'ContextRelationLoss',
    'LogitLoss',
    'PixelWiseDivergence',
    'SemanticAffinityLoss',
    'WeightedCrossEntropyLoss',
]
