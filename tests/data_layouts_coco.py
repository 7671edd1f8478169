"""COCO 2017 in a few small images, laid out on disk as the real one is."""

import json
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image

CLASSES = CocoDataset.METAINFO['classes']
# COCO's ids of its 80 classes have gaps.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
IDS = [i for i in range(1, 91) if i not in GAPS]


def write_coco(root: Path, train: int, val: int) -> None:
    """Write images of both splits; the first of each has a crowd, and one
    more image to train on has no annotation."""
    for split, number in (('train', train), ('val', val)):
        size = (96, 128)
        images, annotations = [], []
        for i in range(number + (split == 'train')):
            rng = np.random.default_rng([split == 'train', i])
            name = f'{1000 * (split == "train") + i + 1:012}.jpg'
            file = root / f'{split}2017/{name}'
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(file)
            images.append(
                dict(
                    id=int(file.stem),
                    file_name=name,
                    height=size[0],
                    width=size[1],
                )
            )
            if i == number:
                continue
            shapes = [_polygon(rng, size) for _ in range(3)]
            if i == 0:
                shapes.append(_crowd(size))
            for shape in shapes:
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=int(file.stem),
                        category_id=IDS[rng.integers(len(IDS))],
                        **shape,
                    )
                )
        file = root / f'annotations/instances_{split}2017.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            json.dumps(
                dict(
                    info=dict(description='COCO 2017 Dataset'),
                    licenses=[],
                    images=images,
                    annotations=annotations,
                    categories=[
                        dict(id=i, name=name, supercategory='thing')
                        for i, name in zip(IDS, CLASSES)
                    ],
                )
            )
        )


def _polygon(rng: np.random.Generator, size: tuple) -> dict:
    """A diamond of random size in a random place."""
    height, width = rng.integers(24, 64, 2).tolist()
    y, x = (
        int(rng.integers(0, side - extent))
        for side, extent in zip(size, (height, width))
    )
    corners = [
        x + width / 2,
        y,
        x + width,
        y + height / 2,
        x + width / 2,
        y + height,
        x,
        y + height / 2,
    ]
    return dict(
        segmentation=[corners],
        bbox=[x, y, width, height],
        area=height * width / 2,
        iscrowd=0,
    )


def _crowd(size: tuple) -> dict:
    """The lower quarter of the left half, run-length encoded by columns."""
    height, width = size
    rows, columns = height // 4, width // 2
    counts = [height - rows, rows] * columns
    return dict(
        segmentation=dict(
            counts=[*counts, height * (width - columns)], size=[*size]
        ),
        bbox=[0, height - rows, columns, rows],
        area=rows * columns,
        iscrowd=1,
    )
