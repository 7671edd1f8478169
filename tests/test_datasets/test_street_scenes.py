import hashlib
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy.ndimage import distance_transform_edt

from mmbckd.datasets import StreetScenesDataset
from mmbckd.datasets.street_scenes import (
    generate_scene,
    scene_rng,
    write_dataset,
)
from mmbckd.datasets.street_scenes.scene import MIN_INSTANCE_AREA

CLASSES = StreetScenesDataset.METAINFO['classes']
THINGS = ('pole', 'sign', 'car', 'person')
SIZE = (64, 128)
TOOL = (
    Path(__file__).parents[2]
    / 'tools'
    / 'dataset_converters'
    / 'street_scenes.py'
)


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def test_every_class_has_its_own_color():
    palette = StreetScenesDataset.METAINFO['palette']
    assert len(CLASSES) == len(palette) == len(set(map(tuple, palette)))


@pytest.fixture(scope='module')
def scenes():
    return [
        generate_scene(scene_rng(0, 'train', i, (128, 256))) for i in range(20)
    ]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes') / 'set'
    assert write_dataset(root, 4, 2, SIZE, seed=3)
    return root


def test_same_seed_writes_same_bytes(written, tmp_path):
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1 if threads > 1 else 4)
        write_dataset(tmp_path, 4, 2, SIZE, seed=3)
    finally:
        cv2.setNumThreads(threads)
    assert digests(tmp_path) == digests(written)


@pytest.mark.parametrize(
    'split, index, pixels, bgr, instances',
    [
        (
            'train',
            0,
            [3118, 10505, 1374, 10599, 965, 1126, 279, 149, 3778, 429, 446],
            [137.56, 128.38, 122.56],
            31,
        ),
        (
            'val',
            59,
            [2398, 9300, 860, 10680, 2856, 2897, 146, 823, 1207, 1123, 478],
            [140.24, 133.02, 120.79],
            27,
        ),
    ],
)
def test_scenes_are_those_of_the_shipped_teacher(
    split, index, pixels, bgr, instances
):
    """The teacher and the committed results are of these pictures. Sines and
    resizing may differ in the last bit between CPUs and versions."""
    scene = generate_scene(scene_rng(0, split, index, (128, 256)))
    found = np.bincount(scene['labels'].ravel(), minlength=len(CLASSES))
    np.testing.assert_allclose(found, pixels, atol=5)
    np.testing.assert_allclose(scene['image'].mean((0, 1)), bgr, atol=0.05)
    assert len(scene['instances']) == instances


def test_other_seed_or_split_is_another_scene():
    images = [
        generate_scene(scene_rng(seed, split, 0, SIZE), *SIZE)['image']
        for seed, split in ((0, 'train'), (1, 'train'), (0, 'val'))
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (images[a] != images[b]).mean() > 0.5


def test_scene_does_not_depend_on_how_many_are_asked_for(written, tmp_path):
    write_dataset(tmp_path, 2, 1, SIZE, seed=3)
    fewer, more = digests(tmp_path), digests(written)
    names = [name for name in fewer if name.endswith('.png')]
    assert len(names) == 6
    assert all(fewer[name] == more[name] for name in names)


def test_written_scene_is_the_generated_one(written):
    for split in ('train', 'val'):
        scene = generate_scene(scene_rng(3, split, 1, SIZE), *SIZE)
        image = cv2.imread(str(written / f'images/{split}/00001.png'))
        labels = cv2.imread(
            str(written / f'annotations/{split}/00001.png'),
            cv2.IMREAD_UNCHANGED,
        )
        assert image.shape == (*SIZE, 3) and labels.shape == SIZE
        np.testing.assert_array_equal(image, scene['image'])
        np.testing.assert_array_equal(labels, scene['labels'])


def test_every_class_is_common_and_no_label_out_of_range(scenes):
    counts = np.array(
        [
            np.bincount(scene['labels'].ravel(), minlength=len(CLASSES))
            for scene in scenes
        ]
    )
    assert counts.shape[1] == len(CLASSES)
    assert ((counts > 0).mean(0) >= 0.8).all()
    # No class may be a handful of pixels, none may be the whole picture.
    share = counts.sum(0) / counts.sum()
    assert share.min() > 0.002 and share.max() < 0.5


def test_things_come_in_several_instances(scenes):
    for name in THINGS:
        numbers = [
            sum(
                i['category_id'] == CLASSES.index(name)
                for i in scene['instances']
            )
            for scene in scenes
        ]
        assert np.mean(numbers) >= 2, name


@pytest.mark.parametrize(
    'name, share, deepest',
    [('pole', 0.8, 2.5), ('railing', 0.9, 2.5), ('marking', 0.65, 5)],
)
def test_thin_classes_are_thin(scenes, name, share, deepest):
    depths = []
    for scene in scenes:
        mask = scene['labels'] == CLASSES.index(name)
        # Padded, or what the border cuts would look thick.
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        depths.append(depth[mask])
    depths = np.concatenate(depths)
    assert (depths <= 1.5).mean() > share
    assert np.quantile(depths, 0.99) <= deepest


def test_railings_are_seen_through(scenes):
    railing = CLASSES.index('railing')
    holes = 0
    for scene in scenes:
        mask = (scene['labels'] == railing).astype(np.uint8)
        closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((1, 7)))
        holes += int((closed > mask).sum())
    assert holes > 20 * len(scenes)


def test_light_differs_between_scenes(scenes):
    means = [scene['image'].mean() for scene in scenes]
    assert np.std(means) > 8
    assert all(scene['image'].std() > 15 for scene in scenes)


def test_coco_instances_agree_with_label_map(written):
    for split, count in (('train', 4), ('val', 2)):
        coco = COCO(str(written / f'annotations/instances_{split}.json'))
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(
            THINGS
        )
        assert len(coco.imgs) == count
        wired = CLASSES.index('pole')
        for image in coco.loadImgs(coco.getImgIds()):
            folder = written / 'annotations' / split
            assert (written / 'images' / split / image['file_name']).exists()
            labels = cv2.imread(
                str(folder / image['file_name']), cv2.IMREAD_UNCHANGED
            )
            assert labels.shape == (image['height'], image['width'])
            covered = np.zeros(labels.shape, int)
            for ann in coco.loadAnns(coco.getAnnIds(image['id'])):
                mask = coco.annToMask(ann).astype(bool)
                assert (labels[mask] == ann['category_id']).all()
                assert mask.sum() == ann['area'] >= MIN_INSTANCE_AREA
                assert ann['iscrowd'] == 0
                assert ann['bbox'] == list(
                    cv2.boundingRect(mask.astype(np.uint8))
                )
                covered += mask
            assert covered.max() <= 1
            # Only slivers of a thing, and wires, belong to no instance.
            things = np.isin(
                labels, [i for i in coco.getCatIds() if i != wired]
            )
            assert covered[things].mean() > 0.9


def test_finished_set_is_left_alone(written):
    before = {p: p.stat().st_mtime_ns for p in written.rglob('*')}
    assert not write_dataset(written, 4, 2, SIZE, seed=3)
    assert before == {p: p.stat().st_mtime_ns for p in written.rglob('*')}


def test_interrupted_run_is_made_again(written, tmp_path):

    def interrupt(done, total):
        assert total == 9
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, 7, 2, SIZE, seed=4, progress=interrupt)
    assert not (tmp_path / 'meta.json').exists()
    # Nothing of the other, interrupted set may stay behind.
    assert write_dataset(tmp_path, 4, 2, SIZE, seed=3)
    assert digests(tmp_path) == digests(written)


def test_set_with_missing_files_is_made_again(written, tmp_path):
    write_dataset(tmp_path, 4, 2, SIZE, seed=3)
    (tmp_path / 'images/val/00001.png').unlink()
    assert write_dataset(tmp_path, 4, 2, SIZE, seed=3)
    assert digests(tmp_path) == digests(written)


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'mine.png').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='holds images.*another folder'):
        write_dataset(tmp_path, 4, 2, SIZE)
    assert digests(tmp_path).keys() == {'images/mine.png'}


def test_other_scenes_are_refused_and_named(written):
    with pytest.raises(FileExistsError, match="'seed': 4.*'seed': 3"):
        write_dataset(written, 4, 2, SIZE, seed=4)
    assert json.loads((written / 'meta.json').read_text())['seed'] == 3


def test_file_in_place_of_folder_is_refused(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match='is a file'):
        write_dataset(tmp_path / 'file', 4, 2, SIZE)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(size=(16, 128)),
        dict(size=(64,)),
        dict(num_train=0),
        dict(num_val=-1),
        dict(seed=-1),
    ],
)
def test_wrong_arguments_say_what_was_expected(tmp_path, wrong):
    with pytest.raises(ValueError, match='Expected .* at least .* but got'):
        write_dataset(tmp_path / 'set', **wrong)
    assert not (tmp_path / 'set').exists()


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="train.*val.*but got 'test'"):
        scene_rng(0, 'test', 0, SIZE)


@pytest.mark.parametrize('size', [(48, 96), (96, 96), (120, 160)])
def test_other_sizes(size):
    scene = generate_scene(1, *size)
    assert scene['image'].shape == (*size, 3)
    assert scene['labels'].shape == size


def run_tool(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_command_writes_once_then_skips(tmp_path, monkeypatch, capsys):
    args = (
        tmp_path / 'set',
        '--num-train',
        2,
        '--num-val',
        1,
        '--size',
        *SIZE,
    )
    run_tool(monkeypatch, *args)
    out = capsys.readouterr().out
    assert '3/3' in out and 'Wrote 2 + 1' in out
    run_tool(monkeypatch, *args)
    assert 'Already there' in capsys.readouterr().out


def test_command_reports_foreign_folder_in_one_line(tmp_path, monkeypatch):
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(SystemExit, match='holds notes.txt'):
        run_tool(monkeypatch, tmp_path)
