"""The mathematics as plain functions: no registry, no config.

The losses take tensors, the metrics take NumPy arrays.
"""
from .affinity import boundary_affinity_loss, pair_displacements
from .boundary import boundary_counts, boundary_scores
from .connectivity import connectivity_counts, connectivity_scores
from .relation import relation_kl

__all__ = [
    'boundary_affinity_loss', 'boundary_counts', 'boundary_scores',
    'connectivity_counts', 'connectivity_scores', 'pair_displacements',
    'relation_kl'
]
