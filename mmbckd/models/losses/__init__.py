from .boundary_affinity_loss import BoundaryAffinityLoss
from .context_relation_loss import ContextRelationLoss
from .weighted_cross_entropy_loss import WeightedCrossEntropyLoss

__all__ = [
    'BoundaryAffinityLoss',
    'ContextRelationLoss',
    'WeightedCrossEntropyLoss',
]
