"""Scores of label maps class by class, by the metrics of the configs."""

from __future__ import annotations

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from numpy import ndarray

from ..evaluation import BoundaryIoUMetric, ConnectivityMetric


class ClassScores:
    """IoU, boundaries and connectivity of the images that are added.

    Args:
        num_classes (int): Number of classes C.
        ignore_index (int): Label of ignored pixels. Defaults to 255.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self._areas = torch.zeros(4, num_classes, dtype=torch.float64)
        self._metrics = [
            metric(ignore_index=ignore_index)
            for metric in (BoundaryIoUMetric, ConnectivityMetric)
        ]
        self._counts: list[list] = [[] for _ in self._metrics]

    def add(self, prediction: ndarray, truth: ndarray) -> None:
        """Count an image.

        Args:
            prediction (ndarray): Predicted class of every pixel.
            truth (ndarray): True class of every pixel, or ``ignore_index``.

        Shape:
            - prediction, truth: (H, W)
        """
        self._areas += torch.stack(
            IoUMetric.intersect_and_union(
                torch.from_numpy(prediction.astype(np.int64)),
                torch.from_numpy(truth.astype(np.int64)),
                self.num_classes,
                self.ignore_index,
            )
        )
        for metric, counts in zip(self._metrics, self._counts):
            counts.append(metric.count(prediction, truth, self.num_classes))

    def per_class(self) -> dict[str, ndarray]:
        """The scores by the keys of their means, such as ``mIoU``.

        Returns:
            dict[str, ndarray]: (C, ) each, NaN where a class has none; in
            percent where the metric is.
        """
        intersection, union, _, _ = self._areas
        scores = {'mIoU': (100 * intersection / union).numpy()}
        for metric, counts in zip(self._metrics, self._counts):
            found = metric.score(counts)
            scores.update({key: values for key, (_, values) in found.items()})
        return scores

    def means(self) -> dict[str, float]:
        """The means over the classes that have a score, two decimals."""
        return {
            key: round(float(np.nanmean(values)), 2)
            for key, values in self.per_class().items()
        }
