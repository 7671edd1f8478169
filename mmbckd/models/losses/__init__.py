from .boundary_affinity_loss import BoundaryAffinityLoss
from .context_relation_loss import ContextRelationLoss

__all__ = ['BoundaryAffinityLoss', 'ContextRelationLoss']
