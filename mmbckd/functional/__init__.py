"""The losses as plain functions of tensors: no registry, no config.

They need PyTorch only.
"""

from .boundary_affinity import affinity_edges, boundary_affinity_loss
from .context_relation import relation_kl, relation_rows
from .lines import pair_displacements
from .mask_classification import mask_class_logits, mask_query_logits
from .pixel_wise_divergence import pixel_wise_divergence
from .semantic_affinity import semantic_affinity_edges, semantic_affinity_loss

__all__ = [
    'affinity_edges',
    'boundary_affinity_loss',
    'mask_class_logits',
    'mask_query_logits',
    'pair_displacements',
    'pixel_wise_divergence',
    'relation_kl',
    'relation_rows',
    'semantic_affinity_edges',
    'semantic_affinity_loss',
]
