from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from terminaltables import AsciiTable

from ..functional.boundary import boundary_width
from ..functional.coco_boundary import BoundaryCOCOeval

# As CocoMetric names them, in the order of COCO's summary.
AP_NAMES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
AR_NAMES = (
    'AR@100',
    'AR@300',
    'AR@1000',
    'AR_s@1000',
    'AR_m@1000',
    'AR_l@1000',
)


@METRICS.register_module()
class CocoBoundaryMetric(CocoMetric):
    """mmdet's ``CocoMetric`` that also reports Boundary AP.

    That is COCO's AP of masks where the IoU of a detection and a truth is the
    lesser of mask IoU and Boundary IoU, see
    :mod:`mmbckd.evaluation.functional.coco_boundary`. Returned beside what
    ``CocoMetric`` returns: ``boundary_mAP``, ``boundary_mAP_50``,
    ``boundary_mAP_75``, ``boundary_mAP_s``, ``boundary_mAP_m`` and
    ``boundary_mAP_l``, and ``boundary_{class}_precision`` if ``classwise``.
    Small, medium and large are by the annotations' areas; without
    ``ann_file`` these are the boxes', as for ``CocoMetric``.

    Args:
        ann_file (str | None): See ``CocoMetric``. Defaults to None.
        metric (str | Sequence[str]): What to report besides, as in
            ``CocoMetric``: 'bbox', 'segm', 'proposal', 'proposal_fast'.
            Defaults to (), nothing.
        ratio (float): Width of the boundary region as a fraction of the
            image's diagonal. Defaults to 0.02.
        **kwargs: The other arguments of ``CocoMetric``. ``use_mp_eval`` is
            for ``metric`` alone.

    Raises:
        ValueError: If ``ratio`` is not positive and finite, or an item of
            ``metric_items`` is unknown.

    References:
        Cheng et al. Boundary IoU. CVPR 2021.

    Example:
        >>> val_evaluator = dict(  # in place of CocoMetric
        ...     type='CocoBoundaryMetric',
        ...     ann_file='data/coco/annotations/instances_val2017.json',
        ...     metric=['bbox', 'segm'])
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = (),
        ratio: float = 0.02,
        **kwargs,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        super().__init__(ann_file, metrics, **kwargs)
        # So that a wrong option is known before the first epoch is over.
        boundary_width(1, 1, ratio)
        self.ratio = ratio
        unknown = set(self.metric_items or ()).difference(AP_NAMES, AR_NAMES)
        if unknown:
            raise ValueError(
                f'Expected metric_items among {AP_NAMES + AR_NAMES}, but got '
                f'{sorted(unknown)}'
            )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections of a batch, their masks run-length encoded.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): ``DetDataSample`` as dictionaries.

        Raises:
            ValueError: If the detections have no masks.
        """
        for data_sample in data_samples:
            if 'masks' not in data_sample['pred_instances']:
                raise ValueError(
                    f'{type(self).__name__} needs `masks` in `pred_instances`,'
                    f' but got {sorted(data_sample["pred_instances"])}; use '
                    'CocoMetric for a detector that predicts no masks'
                )
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Add Boundary AP to what ``CocoMetric`` computes.

        Args:
            results (list[tuple]): Truth and detections of every image.

        Returns:
            dict[str, float]: The scores, from 0 to 1, rounded to three
            decimals; -1 where there is no truth to score. None of them if
            ``format_only``, or if nothing was detected.

        Raises:
            ValueError: If a truth has no mask.
        """
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        logger: MMLogger = MMLogger.get_current_instance()
        logger.info('Evaluating boundary...')
        if detections := self._detections(results):
            metrics.update(self._report(self._evaluate(detections), logger))
        else:
            logger.error('The testing results of the whole dataset is empty.')
        return metrics

    def _detections(self, results: list[tuple]) -> list[dict]:
        """The detected masks as COCO lists them.

        Without their boxes, by which COCO would take the masks' sizes.
        """
        return [
            dict(
                image_id=detected['img_id'],
                category_id=self.cat_ids[label],
                score=float(score),
                segmentation=mask,
            )
            for _, detected in results
            for label, score, mask in zip(
                detected['labels'],
                detected.get('mask_scores', detected['scores']),
                detected['masks'],
            )
        ]

    def _evaluate(self, detections: list[dict]) -> BoundaryCOCOeval:
        """Match the detections with the truth and print COCO's summary."""
        for truth in self._coco_api.anns.values():
            if not truth.get('segmentation'):
                raise ValueError(
                    f'{type(self).__name__} needs the masks of the truth, but '
                    f'annotation {truth["id"]} of image {truth["image_id"]} '
                    'has no `segmentation`; give the ann_file of an instance '
                    'segmentation data set, or load its masks (with_mask)'
                )
        coco_eval = BoundaryCOCOeval(
            self._coco_api, self._coco_api.loadRes(detections), self.ratio
        )
        coco_eval.params.catIds = self.cat_ids
        coco_eval.params.imgIds = self.img_ids
        coco_eval.params.maxDets = list(self.proposal_nums)
        coco_eval.params.iouThrs = self.iou_thrs
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval

    def _report(
        self, coco_eval: BoundaryCOCOeval, logger: MMLogger
    ) -> dict[str, float]:
        """Log the scores and name them as ``CocoMetric`` does."""
        metrics = {}
        if self.classwise:
            table = [('category', *AP_NAMES)]
            for name, scores in self._classwise(coco_eval).items():
                table.append((name, *scores))
                metrics[f'boundary_{name}_precision'] = scores[0]
            logger.info('\n' + AsciiTable(table).table)
        stats = dict(zip(AP_NAMES + AR_NAMES, coco_eval.stats))
        for name in self.metric_items or AP_NAMES:
            metrics[f'boundary_{name}'] = round(float(stats[name]), 3)
        logger.info(
            'boundary_mAP_copypaste: '
            + ' '.join(f'{stats[name]:.3f}' for name in AP_NAMES)
        )
        return metrics

    def _classwise(
        self, coco_eval: BoundaryCOCOeval
    ) -> dict[str, list[float]]:
        """``AP_NAMES`` of each class, NaN where it has no truth."""
        params = coco_eval.params
        # (threshold, recall, class, size), -1 where there is no truth
        precision = np.ma.masked_equal(
            coco_eval.eval['precision'][..., -1], -1
        )
        every, *sizes = np.moveaxis(precision, -1, 0)
        thresholds = [
            every[np.isclose(params.iouThrs, t)] for t in (0.5, 0.75)
        ]
        table = np.stack(
            [
                part.mean((0, 1)).filled(np.nan)
                for part in (every, *thresholds, *sizes)
            ],
            1,
        )
        names = [c['name'] for c in self._coco_api.load_cats(params.catIds)]
        return dict(zip(names, table.round(3).tolist()))
