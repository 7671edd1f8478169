"""Street scenes on disk."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .drawing import CAR, CLASSES, PERSON, POLE, SIGN
from .scene import SPLITS, check_size, generate_scene, scene_rng

VERSION = 1  # raise when the same seed would draw another picture
_META, _UNFINISHED = 'meta.json', 'meta.json.unfinished'
_KINDS = ('images', 'annotations')


def write_dataset(
    root: str | os.PathLike[str],
    num_train: int = 240,
    num_val: int = 60,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write a data set of street scenes, unless it is there already.

    The layout is::

        root/images/{train,val}/00000.png              BGR images
        root/annotations/{train,val}/00000.png         labels, one channel
        root/annotations/instances_{train,val}.json    COCO instances
        root/meta.json                                 what the set is

    ``meta.json`` comes last, so that an interrupted run is known as such and
    is made again. Scene ``i`` of a split does not depend on how many scenes
    are asked for.

    Args:
        root (str | os.PathLike): Folder to write; must be new, empty, or
            hold this very set, finished or not.
        num_train (int): Training scenes, at least 1. Defaults to 240.
        num_val (int): Validation scenes, at least 1. Defaults to 60.
        size (tuple[int, int]): Height and width. Defaults to (128, 256).
        seed (int): Seed of the set, at least 0. Defaults to 0.
        progress (Callable | None): Called with the number of scenes written
            and of all scenes after each one. Defaults to None.

    Returns:
        bool: True if the set was written, False if it was there.

    Raises:
        ValueError: If a count, the size or the seed is too small.
        FileExistsError: If ``root`` holds something else, which includes
            street scenes made with other arguments.
        NotADirectoryError: If ``root`` is a file.
        OSError: If an image cannot be written.
    """
    for name, value, least in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('seed', seed, 0),
    ):
        if value < least:
            raise ValueError(
                f'Expected {name} of at least {least}, but got {value}.'
            )
    check_size(size)
    root = Path(root)
    size = (int(size[0]), int(size[1]))
    counts = dict(train=int(num_train), val=int(num_val))
    meta = dict(
        kind='street scenes',
        version=VERSION,
        seed=int(seed),
        size=list(size),
        **counts,
    )
    if _is_done(root, meta):
        return False

    root.mkdir(parents=True, exist_ok=True)
    (root / _UNFINISHED).write_text(json.dumps(meta))
    (root / _META).unlink(missing_ok=True)
    for kind in _KINDS:
        if (root / kind).exists():
            shutil.rmtree(root / kind)
        for split in SPLITS:
            (root / kind / split).mkdir(parents=True)
    done, total = 0, sum(counts.values())
    for split, count in counts.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            scene = generate_scene(scene_rng(seed, split, index, size), *size)
            images.append(_write_scene(root, split, index, scene))
            for instance in scene['instances']:
                number = len(annotations) + 1
                annotations.append(_annotation(instance, number, index + 1))
            done += 1
            if progress is not None:
                progress(done, total)
        _write_instances(root, split, images, annotations)
    os.replace(root / _UNFINISHED, root / _META)
    return True


def _is_done(root: Path, meta: dict[str, Any]) -> bool:
    """Whether ``root`` holds this set; False if it is ours to fill.

    Raises:
        NotADirectoryError: If ``root`` is no folder.
        FileExistsError: If it holds anything else.
    """
    if not root.exists() or (root / _UNFINISHED).exists():
        return False
    if not root.is_dir():
        raise NotADirectoryError(
            f'Expected a folder for the street scenes, but {root} is a file. '
            'Choose another path.'
        )
    found = sorted(path.name for path in root.iterdir())
    if not found:
        return False
    advice = 'Choose another folder, or empty this one.'
    if _META not in found:
        raise FileExistsError(
            f'Expected {root} to be empty or to hold street scenes, but it '
            f'has no {_META} and holds {", ".join(found[:5])}'
            f'{", ..." if len(found) > 5 else ""}. {advice}'
        )
    try:
        said = json.loads((root / _META).read_text())
    except ValueError:
        said = None
    if said != meta:
        raise FileExistsError(
            f'Expected the street scenes {meta} in {root}, but its {_META} '
            f'says {said}. {advice}'
        )
    # A set from which files are missing is made again.
    return all(
        len(list((root / kind / split).glob('*.png'))) == meta[split]
        and (root / f'annotations/instances_{split}.json').exists()
        for kind in _KINDS
        for split in SPLITS
    )


def _write_scene(
    root: Path, split: str, index: int, scene: dict[str, Any]
) -> dict[str, Any]:
    """Write image and labels; returns the image's entry for COCO."""
    name = f'{index:05d}.png'
    for kind, key in zip(_KINDS, ('image', 'labels')):
        file = root / kind / split / name
        # Weak compression: noise does not shrink, and this is twice as fast.
        level = [cv2.IMWRITE_PNG_COMPRESSION, 2]
        if not cv2.imwrite(str(file), scene[key], level):
            raise OSError(
                f'Expected to write {file}, but could not. Check the free '
                'space and the permissions there.'
            )
    height, width = scene['labels'].shape
    return dict(id=index + 1, file_name=name, height=height, width=width)


def _write_instances(
    root: Path, split: str, images: list[dict], annotations: list[dict]
) -> None:
    coco = dict(
        images=images,
        annotations=annotations,
        categories=[
            dict(id=label, name=CLASSES[label])
            for label in (POLE, SIGN, CAR, PERSON)
        ],
    )
    file = root / f'annotations/instances_{split}.json'
    file.write_text(json.dumps(coco))


def _annotation(
    instance: dict[str, Any], number: int, image_id: int
) -> dict[str, Any]:
    mask = instance['mask']
    return dict(
        id=number,
        image_id=image_id,
        category_id=instance['category_id'],
        segmentation=_rle(mask),
        area=int(mask.sum()),
        bbox=list(cv2.boundingRect(mask.astype(np.uint8))),
        iscrowd=0,
    )


def _rle(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    return dict(size=list(mask.shape), counts=[0] * bool(flat[0]) + counts)
