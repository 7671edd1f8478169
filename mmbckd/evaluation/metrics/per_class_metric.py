from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable


class PerClassMetric(BaseMetric):
    """Base of metrics that score label maps class by class.

    One result per image, a few counts, is what the ranks of a distributed
    run exchange; so the images that the sampler repeats to give every rank
    as many drop out as they do for mmseg's ``IoUMetric``.

    Args:
        ignore_index (int): Label that the truth gives ignored pixels.
            Defaults to 255.
        collect_device (str): ``'cpu'`` or ``'gpu'``, where the ranks exchange
            results. Defaults to ``'cpu'``.
        prefix (str | None): Prefix of the returned keys. Defaults to None.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index

    @abstractmethod
    def count(
        self, prediction: np.ndarray, truth: np.ndarray, num_classes: int
    ) -> Any:
        """Count what the scores are made of in one image, (H, W) each."""

    @abstractmethod
    def score(
        self, results: Sequence[Any]
    ) -> dict[str, tuple[str, np.ndarray]]:
        """Turn the counts of all images into scores.

        Returns:
            dict[str, tuple[str, ndarray]]: For each key to return, the
            heading of its column in the table and the scores per class,
            (C, ), NaN where a class has none.
        """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count in the images of a batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): ``SegDataSample`` or
                ``DetDataSample`` as dictionaries, with ``pred_sem_seg`` and
                ``gt_sem_seg``, (1, H, W) each.

        Raises:
            TypeError: If a map does not hold integers.
            ValueError: If a map is missing, the maps of an image differ in
                size, or hold labels that are no classes.
        """
        num_classes = len(self.dataset_meta['classes'])
        for data_sample in data_samples:
            prediction, truth = (
                _label_map(data_sample, name)
                for name in ('pred_sem_seg', 'gt_sem_seg')
            )
            self.results.append(self.count(prediction, truth, num_classes))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Log the table of classes and return the means over them.

        Args:
            results (list): What :meth:`count` returned, of all images.

        Returns:
            dict[str, float]: The means, rounded to two decimals. Classes
            without a score are left out; NaN if none has one.

        Raises:
            ValueError: If there are no results.
        """
        if not results:
            raise ValueError(
                f'{type(self).__name__} got no images; check '
                "that the dataloader's data set is not empty"
            )
        logger: MMLogger = MMLogger.get_current_instance()
        table = PrettyTable()
        table.add_column('Class', list(self.dataset_meta['classes']))
        metrics = {}
        for key, (heading, values) in self.score(results).items():
            table.add_column(heading, np.round(values, 2))
            values = values[~np.isnan(values)]
            metrics[key] = float(
                np.round(values.mean(), 2) if len(values) else np.nan
            )
        print_log('per class results:', logger)
        print_log('\n' + table.get_string(), logger=logger)
        return metrics


def _label_map(data_sample: dict, name: str) -> np.ndarray:
    """A data sample's map of labels, (H, W)."""
    maps = data_sample.get(name, {})
    for key in ('data', 'sem_seg'):  # as mmseg and as mmdet name it
        if key in maps:
            return maps[key].reshape(maps[key].shape[-2:]).cpu().numpy()
    raise ValueError(
        f'Expected {name} to hold its map as `data` (mmseg) or `sem_seg` '
        f'(mmdet), but got {sorted(maps)}; check that the model predicts '
        'semantic segmentation and that the pipeline loads its truth'
    )
