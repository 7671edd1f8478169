"""The mathematics as plain functions: no registry, no config.

The losses take tensors, the metrics take NumPy arrays.
"""
from .affinity import affinity_edges, boundary_affinity_loss
from .boundary import boundary_counts, boundary_errors, boundary_scores
from .connectivity import (broken_regions, connectivity_counts,
                           connectivity_scores)
from .lines import pair_displacements
from .relation import relation_kl, relation_rows

__all__ = [
    'affinity_edges', 'boundary_affinity_loss', 'boundary_counts',
    'boundary_errors', 'boundary_scores', 'broken_regions',
    'connectivity_counts', 'connectivity_scores', 'pair_displacements',
    'relation_kl', 'relation_rows'
]
