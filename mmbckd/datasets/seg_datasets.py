"""Segmentation data sets that MMSegmentation does not have."""

import os.path as osp

from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


def no_images(dataset: BaseDataset) -> FileNotFoundError:
    """What a data set of ours raises if its folder has no images."""
    img_dir = dataset.data_prefix['img_path']
    found = 'holds none' if osp.isdir(img_dir) else 'does not exist'
    return FileNotFoundError(
        f'{type(dataset).__name__} expected *{dataset.img_suffix} images in '
        f'{img_dir}, but that folder {found}. '
        + dataset.HINT.replace('{root}', dataset.data_root or 'FOLDER')
    )


class _FolderDataset(BaseSegDataset):
    """A data set of two folders that says so when they are not there."""

    #: What to do if the folder is missing or empty; {root} is the data root.
    HINT: str

    def load_data_list(self) -> list[dict]:
        """List images and label maps.

        Raises:
            FileNotFoundError: If there are none.
        """
        img_dir = self.data_prefix['img_path']
        data_list = super().load_data_list() if osp.isdir(img_dir) else []
        if not data_list:
            raise no_images(self)
        return data_list


@DATASETS.register_module()
class CamVidDataset(_FolderDataset):
    """CamVid with the 11 classes of the SegNet split.

    Expected layout under ``data_root``: ``images/{train,val}/*.jpg`` and
    ``annotations/{train,val}/*.png``, the PNGs holding class ids 0 to 10 and
    255 where the image is not labeled.

    References:
        - Brostow, Fauqueur, Cipolla. Semantic object classes in video: a
          high-definition ground truth database. PRL 2009.
        - Badrinarayanan, Kendall, Cipolla. SegNet. TPAMI 2017 (the split).
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )
    HINT = (
        'Set the environment variable MMBCKD_CAMVID (or `data_root`) to '
        'a folder with images/{train,val} and annotations/{train,val}.'
    )


@DATASETS.register_module()
class StreetScenesDataset(_FolderDataset):
    """The generated street scenes of the quickstart.

    See :mod:`mmbckd.datasets.street_scenes` for what they are and
    :func:`mmbckd.datasets.street_scenes.write_dataset` for how they lie on
    disk. The palette is Okabe and Ito's, safe for color-blind readers, with
    grays that differ in lightness.
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'sidewalk',
            'vegetation',
            'sign',
            'railing',
            'car',
            'person',
            'marking',
        ),
        palette=[
            [86, 180, 233],
            [170, 170, 170],
            [0, 0, 0],
            [90, 90, 90],
            [204, 121, 167],
            [0, 158, 115],
            [240, 228, 66],
            [230, 159, 0],
            [0, 114, 178],
            [213, 94, 0],
            [255, 255, 255],
        ],
    )
    HINT = 'Make them first: mim run mmbckd street_scenes {root}'

    def __init__(self, img_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, **kwargs)
