"""The mathematics of the metrics, on NumPy arrays: no registry, no config.

It needs NumPy, OpenCV and SciPy only; ``coco_boundary``, which is imported by
its own name, pycocotools too.
"""

from .boundary import boundary_counts, boundary_errors, boundary_scores
from .connectivity import (
    broken_regions,
    connectivity_counts,
    connectivity_scores,
)
from .error_by_distance import boundary_distance, errors_by_distance
from .label_filters import majority_filter, remove_fragments

__all__ = [
    'boundary_distance',
    'boundary_counts',
    'boundary_errors',
    'boundary_scores',
    'broken_regions',
    'connectivity_counts',
    'connectivity_scores',
    'errors_by_distance',
    'majority_filter',
    'remove_fragments',
]
