"""The losses as plain functions of tensors: no registry, no config."""
from .affinity import boundary_affinity_loss, pair_displacements
from .relation import relation_kl

__all__ = ['boundary_affinity_loss', 'pair_displacements', 'relation_kl']
