from .boundary_affinity_loss import BoundaryAffinityLoss
from .context_relation_loss import ContextRelationLoss
from .logit_loss import LogitLoss
from .pixel_wise_divergence import PixelWiseDivergence
from .weighted_cross_entropy_loss import WeightedCrossEntropyLoss

__all__ = [
    'BoundaryAffinityLoss',
    'ContextRelationLoss',
    'LogitLoss',
    'PixelWiseDivergence',
    'WeightedCrossEntropyLoss',
]
