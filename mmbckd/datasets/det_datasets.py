"""Detection data sets that MMDetection does not have."""

import os.path as osp

import mmcv
import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.fileio import list_dir_or_file
from pycocotools import mask as mask_utils

from ..evaluation.functional.connectivity import label_regions
from .seg_datasets import CamVidDataset, no_images


@DATASETS.register_module()
class CamVidInstanceDataset(BaseDetDataset):
    """CamVid for object detection and instance segmentation.

    CamVid labels classes, not instances. An instance is here a connected
    region (8-connected) of a class of things: objects of one class that touch
    in the image are one instance, and an object that another one cuts in two
    is two. The layout on disk is that of
    :class:`mmbckd.datasets.CamVidDataset`; nothing has to be converted.

    Args:
        min_area (int): Regions of fewer pixels are marked to be ignored: to
            find them or not is neither right nor wrong. Defaults to 144.
        data_prefix (dict): The folders ``img_path`` and ``seg_map_path``.
        **kwargs: The other arguments of mmdet's ``BaseDetDataset``.
            ``metainfo=dict(classes=...)`` chooses some classes of CamVid,
            ``filter_cfg=dict(filter_empty_gt=True)`` the images to train on
            that have an instance not to be ignored.

    Raises:
        FileNotFoundError: If there is no image, or a label map is missing.
        ValueError: If a class is none of CamVid's, or ``filter_cfg`` asks for
            anything else.

    References:
        See :class:`mmbckd.datasets.CamVidDataset`.
    """

    METAINFO = dict(
        classes=('sign', 'car', 'pedestrian', 'bicyclist'),
        palette=[(192, 128, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)],
    )
    HINT = CamVidDataset.HINT
    img_suffix = '.jpg'
    seg_map_suffix = '.png'

    def __init__(
        self,
        *args,
        min_area: int = 144,
        data_prefix: dict = dict(  # noqa: B006
            img_path='images/train', seg_map_path='annotations/train'
        ),
        **kwargs,
    ) -> None:
        self.min_area = min_area
        super().__init__(*args, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images and their instances.

        Returns:
            list[dict]: As mmdet has them; masks are run-length encoded.
        """
        every = CamVidDataset.METAINFO['classes']
        unknown = set(self.metainfo['classes']).difference(every)
        if unknown:
            raise ValueError(
                f'Expected classes of CamVid, {every}, but got '
                f'{sorted(unknown)}; correct `metainfo`.'
            )
        folder = self.data_prefix['img_path']
        names = (
            sorted(
                list_dir_or_file(
                    folder, list_dir=False, suffix=self.img_suffix
                )
            )
            if osp.isdir(folder)
            else []
        )
        if not names:
            raise no_images(self)
        ids = [every.index(name) for name in self.metainfo['classes']]
        return [
            self._load_image(i, osp.join(folder, name), ids)
            for i, name in enumerate(names)
        ]

    def filter_data(self) -> list[dict]:
        """Choose images by ``filter_cfg``; all of them in test mode."""
        wanted = dict(self.filter_cfg or {})
        filter_empty_gt = wanted.pop('filter_empty_gt', False)
        if wanted:
            raise ValueError(
                f'{type(self).__name__} expected `filter_cfg` with the key '
                f'filter_empty_gt, but got {sorted(wanted)}; remove these.'
            )
        if self.test_mode or not filter_empty_gt:
            return self.data_list
        return [
            info
            for info in self.data_list
            if not all(i['ignore_flag'] for i in info['instances'])
        ]

    def _load_image(self, img_id: int, img_path: str, ids: list[int]) -> dict:
        """An image's data; label ``k`` is CamVid's class ``ids[k]``."""
        stem = osp.basename(img_path).removesuffix(self.img_suffix)
        seg_map_path = osp.join(
            self.data_prefix['seg_map_path'], stem + self.seg_map_suffix
        )
        if not osp.isfile(seg_map_path):
            raise FileNotFoundError(
                f'{type(self).__name__} expected the label map of {img_path} '
                f'in {seg_map_path}, but there is none. {self.HINT}'
            )
        classes = mmcv.imread(seg_map_path, 'unchanged', backend='pillow')
        height, width = classes.shape
        instances = []
        for label, index in enumerate(ids):
            regions, areas, _ = label_regions(classes == index)
            for region, area in enumerate(areas, start=1):
                mask = mask_utils.encode(
                    np.asfortranarray(regions == region, np.uint8)
                )
                x, y, w, h = mask_utils.toBbox(mask).tolist()
                mask['counts'] = mask['counts'].decode()
                instances.append(
                    dict(
                        bbox=[x, y, x + w, y + h],
                        bbox_label=label,
                        mask=mask,
                        ignore_flag=int(area < self.min_area),
                    )
                )
        return dict(
            img_id=img_id,
            img_path=img_path,
            seg_map_path=seg_map_path,
            height=height,
            width=width,
            instances=instances,
        )
