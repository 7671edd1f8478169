"""The mathematics as plain functions: no registry, no config.

The losses take tensors and need PyTorch only. The metrics take NumPy arrays
and need NumPy, OpenCV and SciPy, which are imported with the first of them.
"""

import importlib
from collections.abc import Callable

from .affinity import affinity_edges, boundary_affinity_loss
from .lines import pair_displacements
from .relation import relation_kl, relation_rows

__all__ = [
    'affinity_edges',
    'boundary_affinity_loss',
    'boundary_counts',
    'boundary_errors',
    'boundary_scores',
    'broken_regions',
    'connectivity_counts',
    'connectivity_scores',
    'pair_displacements',
    'relation_kl',
    'relation_rows',
]

# Metric -> the module that has it.
_METRICS = {
    'boundary_counts': 'boundary',
    'boundary_errors': 'boundary',
    'boundary_scores': 'boundary',
    'broken_regions': 'connectivity',
    'connectivity_counts': 'connectivity',
    'connectivity_scores': 'connectivity',
}


def __getattr__(name: str) -> Callable:
    """A metric, from its module."""
    if name not in _METRICS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = importlib.import_module(f'.{_METRICS[name]}', __name__)
    return getattr(module, name)
