from collections.abc import Sequence

import numpy as np
from mmengine.registry import METRICS

from ..functional.boundary import (
    BoundaryCounts,
    boundary_counts,
    boundary_scores,
    sum_counts,
)
from .per_class_metric import PerClassMetric


@METRICS.register_module()
class BoundaryIoUMetric(PerClassMetric):
    """Boundary IoU, trimap IoU and boundary F-score of semantic segmentation.

    The formulas are in :mod:`mmbckd.evaluation.functional.boundary`. Counts of
    pixels are summed over the data set, per class, as mmseg's ``IoUMetric``
    does. Returned, all in percent and each a mean over classes:

    - ``mBIoU``: Boundary IoU of Cheng et al., CVPR 2021;
    - ``trimap_mIoU_{w}px``: IoU of the pixels that are within w pixels of a
      label change in the truth;
    - ``bF1_{t}px``: F-score of the classes' contours at a tolerance of t
      pixels, and ``bF1``, the mean over the tolerances.

    Args:
        ratio (float): Width of the boundary region as a fraction of the
            image's diagonal. Defaults to 0.02.
        trimap_widths (Sequence[float]): Widths w, at least 1; empty for none.
            Defaults to (1, 3, 5).
        tolerances (Sequence[float]): Tolerances t, at least 1; empty for
            none. Defaults to (1, 3, 5).
        **kwargs: ``ignore_index``, ``collect_device`` and ``prefix``, see
            :class:`PerClassMetric`.

    Raises:
        ValueError: If a width or tolerance is given twice.

    Example:
        >>> val_evaluator = [
        ...     dict(type='IoUMetric', iou_metrics=['mIoU']),
        ...     dict(type='BoundaryIoUMetric', trimap_widths=(1, 3, 5)),
        ... ]
    """

    def __init__(
        self,
        ratio: float = 0.02,
        trimap_widths: Sequence[float] = (1, 3, 5),
        tolerances: Sequence[float] = (1, 3, 5),
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        for name, values in (
            ('trimap_widths', trimap_widths),
            ('tolerances', tolerances),
        ):
            if len(set(values)) < len(values):
                raise ValueError(
                    f'Expected {name} that differ from one another, but '
                    f'got {tuple(values)}; name each once'
                )
        self.options = dict(
            ratio=ratio, trimap_widths=trimap_widths, tolerances=tolerances
        )
        # So that a wrong option is known before the first epoch is over.
        pixel = np.zeros((1, 1), np.int64)
        boundary_counts(pixel, pixel, 1, **self.options)

    def count(
        self, prediction: np.ndarray, truth: np.ndarray, num_classes: int
    ) -> BoundaryCounts:
        """See :func:`mmbckd.evaluation.functional.boundary_counts`."""
        return boundary_counts(
            prediction,
            truth,
            num_classes,
            ignore_index=self.ignore_index,
            **self.options,
        )

    def score(
        self, results: Sequence[BoundaryCounts]
    ) -> dict[str, tuple[str, np.ndarray]]:
        """See :func:`mmbckd.evaluation.functional.boundary_scores`."""
        scores = boundary_scores(sum_counts(results))
        table = {'mBIoU': ('BIoU', 100 * scores.biou)}
        for w, iou in zip(self.options['trimap_widths'], scores.trimap_iou):
            table[f'trimap_mIoU_{w:g}px'] = f'trimap_IoU_{w:g}px', 100 * iou
        for t, f1 in zip(self.options['tolerances'], scores.f1):
            table[f'bF1_{t:g}px'] = f'bF1_{t:g}px', 100 * f1
        if len(scores.f1):
            table['bF1'] = 'bF1', 100 * scores.f1.mean(0)
        return table
