"""The data sets of the configs in a few small images, laid out on disk as the
real ones are."""

from pathlib import Path

import numpy as np
from mmseg.datasets import PascalVOCDataset
from PIL import Image

from mmbckd.datasets.street_scenes import write_dataset


def write_datasets(root: Path) -> None:
    """Write every data set to where its configs look for it under ``root``."""
    write_voc12aug(root / 'data/VOCdevkit/VOC2012')
    write_cityscapes(root / 'data/cityscapes')
    write_ade20k(root / 'data/ade/ADEChallengeData2016')
    write_coco_stuff10k(root / 'data/coco_stuff10k')
    write_camvid(root / 'data/camvid')
    write_dataset(str(root / 'data/street_scenes'), 2, 1, (128, 256), seed=0)


def write_voc12aug(root: Path) -> None:
    """VOC 2012 with the additional annotations (SBD)."""
    names = dict(train='2007_000032', val='2007_000033', aug='2008_000002')
    for seed, (split, name) in enumerate(names.items()):
        _image(root / f'JPEGImages/{name}.jpg', seed)
        folder = 'SegmentationClass' + ('Aug' if split == 'aug' else '')
        _labels(
            root / f'{folder}/{name}.png',
            seed,
            classes=21,
            palette=None
            if split == 'aug'
            else PascalVOCDataset.METAINFO['palette'],
        )
        _text(root / f'ImageSets/Segmentation/{split}.txt', f'{name}\n')


def write_cityscapes(root: Path) -> None:
    """Cityscapes after its own scripts made the training ids."""
    names = dict(
        train=('aachen/aachen_000000_000019', 'bochum/bochum_000000_000313'),
        val=('frankfurt/frankfurt_000000_000294',),
    )
    for split, images in names.items():
        for seed, name in enumerate(images):
            size = (64, 128)
            _image(
                root / f'leftImg8bit/{split}/{name}_leftImg8bit.png',
                seed,
                size,
            )
            labels = f'gtFine/{split}/{name}_gtFine'
            _labels(root / f'{labels}_labelTrainIds.png', seed, 19, size)
            _labels(root / f'{labels}_labelIds.png', seed, 34, size)


def write_ade20k(root: Path) -> None:
    """The scene parsing benchmark of ADE20K; label 0 is not labeled."""
    for split, short, number in (
        ('training', 'train', 2),
        ('validation', 'val', 1),
    ):
        for i in range(number):
            name = f'{split}/ADE_{short}_{i + 1:08}'
            _image(root / f'images/{name}.jpg', i)
            _labels(root / f'annotations/{name}.png', i, 151, ignored=0)


def write_coco_stuff10k(root: Path) -> None:
    """COCO-Stuff 10K, converted by mmseg; label 0 is not labeled."""
    for split, number in (('train', 2), ('test', 1)):
        names = [f'COCO_train2014_{77 + i:012}' for i in range(number)]
        for i, name in enumerate(names):
            _image(root / f'images/{split}2014/{name}.jpg', i)
            _labels(
                root / f'annotations/{split}2014/{name}_labelTrainIds.png',
                i,
                classes=172,
                ignored=0,
            )
        _text(root / f'imagesLists/{split}.txt', '\n'.join(names))


def write_camvid(root: Path) -> None:
    """CamVid as :class:`mmbckd.datasets.CamVidDataset` describes it."""
    for split, number in (('train', 2), ('val', 1)):
        for i in range(number):
            name = f'{split}/0016E5_{390 + i:05}'
            _image(root / f'images/{name}.jpg', i)
            _labels(root / f'annotations/{name}.png', i, classes=11, block=24)


def _image(file: Path, seed: int, size: tuple = (72, 96)) -> None:
    rng = np.random.default_rng(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(file)


def _labels(
    file: Path,
    seed: int,
    classes: int,
    size: tuple = (72, 96),
    ignored: int = 255,
    palette: list | None = None,
    block: int = 8,
) -> None:
    """Blocks of random classes; some of them are to be ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(
        0, classes, (size[0] // block, size[1] // block), np.uint8
    )
    labels[0] = ignored
    image = Image.fromarray(labels.repeat(block, 0).repeat(block, 1))
    if palette is not None:
        image.putpalette(np.array(palette, np.uint8).tobytes())
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def _text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
