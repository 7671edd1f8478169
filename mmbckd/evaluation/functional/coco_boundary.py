"""Boundary AP: COCO's mask AP where a match must meet the boundary too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .boundary import boundary_region, boundary_width


def boundary_rle(rle: dict, ratio: float = 0.02) -> dict:
    """Boundary region of a mask, both run-length encoded.

    Args:
        rle (dict): Mask as pycocotools' compressed RLE, of the whole image.
        ratio (float): Width of the boundary region as a fraction of the
            image's diagonal. Defaults to 0.02.

    Returns:
        dict: Its :func:`~mmbckd.evaluation.functional.boundary_region`, as
        compressed RLE.

    Raises:
        ValueError: If ``ratio`` is not positive and finite.

    Example:
        >>> square = mask_utils.encode(np.ones((9, 9), np.uint8, order='F'))
        >>> mask_utils.area(boundary_rle(square)).item()  # the frame
        32
    """
    height, width = rle['size']
    d = boundary_width(height, width, ratio)
    x, y, w, h = mask_utils.toBbox(rle).astype(int)
    if min(h, w) <= 2 * d:
        return rle  # no pixel of it is farther than d from outside
    mask = mask_utils.decode(rle)
    window = slice(y, y + h), slice(x, x + w)
    mask[window] = boundary_region(mask[window], d)
    return mask_utils.encode(mask)


def mask_boundary_iou(
    detections: Sequence[dict],
    truths: Sequence[dict],
    iscrowd: Sequence[int],
    ratio: float = 0.02,
) -> ndarray:
    r"""The lesser of mask IoU and Boundary IoU, of every pair of masks.

    With :math:`D_d` and :math:`G_d` the boundary regions of masks :math:`D`
    and :math:`G`, that is

    .. math:: \min\left(\frac{|D \cap G|}{|D \cup G|},
        \frac{|D_d \cap G_d|}{|D_d \cup G_d|}\right).

    For a crowd, whose outline says nothing of its members', it is COCO's
    :math:`|D \cap G| / |D|` alone.

    Args:
        detections (Sequence[dict]): D predicted masks as compressed RLE.
        truths (Sequence[dict]): G true masks as compressed RLE, of the same
            image.
        iscrowd (Sequence[int]): Which of the truths are crowds, 0 or 1 each.
        ratio (float): Width of the boundary region as a fraction of the
            image's diagonal. Defaults to 0.02.

    Returns:
        ndarray: Float64 from 0 to 1, (D, G).

    Raises:
        ValueError: If ``ratio`` is not positive and finite.

    References:
        Cheng, Girshick, Dollar, Berg, Kirillov. Boundary IoU: Improving
        Object-Centric Image Segmentation Evaluation. CVPR 2021, and the
        ``COCOeval`` of their ``boundary_iou`` package.
    """
    iou = np.zeros((len(detections), len(truths)))
    if not iou.size:
        return iou
    iou[:] = mask_utils.iou(detections, truths, iscrowd)
    # Masks that share nothing need no boundary, nor do crowds.
    pairs = iou * np.logical_not(iscrowd) > 0
    rows, columns = np.flatnonzero(pairs.any(1)), np.flatnonzero(pairs.any(0))
    if len(rows):
        predicted = [boundary_rle(detections[i], ratio) for i in rows]
        true = [boundary_rle(truths[j], ratio) for j in columns]
        block = np.ix_(rows, columns)
        iou[block] = np.minimum(
            iou[block], mask_utils.iou(predicted, true, [0] * len(columns))
        )
    return iou


class BoundaryCOCOeval(COCOeval):
    """COCO's evaluation of masks with :func:`mask_boundary_iou` for IoU.

    To be used as ``COCOeval``, whose matching, size ranges and summary it
    keeps.

    Args:
        cocoGt (COCO | None): The truth, with masks as polygons or RLE.
        cocoDt (COCO | None): The detections, ``cocoGt.loadRes(...)`` of
            masks without boxes: COCO takes the size of a detection that has a
            box from the box.
        ratio (float): Width of the boundary region as a fraction of the
            image's diagonal. Defaults to 0.02.
    """

    def __init__(
        self,
        cocoGt: COCO | None = None,
        cocoDt: COCO | None = None,
        ratio: float = 0.02,
    ) -> None:
        super().__init__(cocoGt, cocoDt, iouType='segm')
        self.ratio = ratio

    def computeIoU(self, imgId: int, catId: int) -> ndarray:
        """IoU of an image's detections, best first, and its truths.

        Args:
            imgId (int): The image.
            catId (int): The category, or -1 for all if ``params.useCats`` is
                0.

        Returns:
            ndarray: (D, G), of the ``params.maxDets[-1]`` best detections.
        """
        categories = [catId] if self.params.useCats else self.params.catIds
        gt, dt = (
            [x for c in categories for x in by_category[imgId, c]]
            for by_category in (self._gts, self._dts)
        )
        dt = sorted(dt, key=lambda d: -d['score'])[: self.params.maxDets[-1]]
        return mask_boundary_iou(
            [d['segmentation'] for d in dt],
            [g['segmentation'] for g in gt],
            [int(g['iscrowd']) for g in gt],
            self.ratio,
        )
