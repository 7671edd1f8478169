from collections.abc import Sequence

import numpy as np
from mmengine.registry import METRICS

from ..functional.connectivity import (
    ConnectivityCounts,
    connectivity_counts,
    connectivity_scores,
)
from .per_class_metric import PerClassMetric


@METRICS.register_module()
class ConnectivityMetric(PerClassMetric):
    """Whether regions stay connected in semantic segmentation.

    The definitions are in :mod:`mmbckd.evaluation.functional.connectivity`.
    Returned, each a mean over the images that a class occurs in, then over
    classes:

    - ``b0_err``: absolute error in the number of connected components;
    - ``b1_err``: absolute error in the number of holes;
    - ``whole_regions``: percentage of true regions that exactly one predicted
      region touches, and covers by at least a half;
    - ``stray_fragments``: percentage of predicted regions that touch no true
      region of their class.

    Args:
        min_area (int): Regions and holes of fewer pixels, of truth and
            prediction, are disregarded. Defaults to 0.
        **kwargs: ``ignore_index``, ``collect_device`` and ``prefix``, see
            :class:`PerClassMetric`.

    Raises:
        ValueError: If ``min_area`` is negative.
    """

    def __init__(self, min_area: int = 0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.min_area = min_area
        # So that a wrong option is known before the first epoch is over.
        pixel = np.zeros((1, 1), np.int64)
        connectivity_counts(pixel, pixel, 1, min_area=min_area)

    def count(
        self, prediction: np.ndarray, truth: np.ndarray, num_classes: int
    ) -> ConnectivityCounts:
        """See :func:`mmbckd.evaluation.functional.connectivity_counts`."""
        return connectivity_counts(
            prediction,
            truth,
            num_classes,
            min_area=self.min_area,
            ignore_index=self.ignore_index,
        )

    def score(
        self, results: Sequence[ConnectivityCounts]
    ) -> dict[str, tuple[str, np.ndarray]]:
        """See :func:`mmbckd.evaluation.functional.connectivity_scores`."""
        scores = connectivity_scores(results)
        return {
            'b0_err': ('b0_err', scores.b0_err),
            'b1_err': ('b1_err', scores.b1_err),
            'whole_regions': ('whole_regions', 100 * scores.whole),
            'stray_fragments': ('stray_fragments', 100 * scores.stray),
        }
