import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as mask_utils
from skimage.measure import label, regionprops

from mmbckd.datasets import CamVidDataset, CamVidInstanceDataset
from mmbckd.evaluation import CocoBoundaryMetric

EVERY = CamVidDataset.METAINFO['classes']
CLASSES = CamVidInstanceDataset.METAINFO['classes']
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'instances')),
]


def blobs(seed):
    """Large and small regions of all classes, and what is not labeled."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(EVERY), (6, 8), np.uint8).repeat(16, 0)
    classes = classes.repeat(16, 1)
    dots = rng.random(classes.shape) < 0.01
    classes[dots] = rng.choice([8, 255], dots.sum())
    return classes


@pytest.fixture
def root(tmp_path):
    for folder in ('images/val', 'annotations/val'):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(
            tmp_path / f'images/val/{i}.jpg'
        )
        Image.fromarray(blobs(i)).save(tmp_path / f'annotations/val/{i}.png')
    return tmp_path


def build(root, **kwargs):
    init_default_scope('mmdet')
    return DATASETS.build(
        dict(
            type='CamVidInstanceDataset',
            data_root=str(root),
            data_prefix=dict(
                img_path='images/val', seg_map_path='annotations/val'
            ),
            pipeline=PIPELINE,
            **dict(dict(test_mode=True), **kwargs),
        )
    )


@pytest.mark.parametrize('classes', [CLASSES, ('bicyclist', 'sky')])
def test_instances_are_the_connected_regions_of_their_classes(root, classes):
    dataset = build(root, metainfo=dict(classes=classes))
    assert len(dataset) == 3
    for i in range(3):
        instances = dataset.get_data_info(i)['instances']
        expected = {
            (k, *region.bbox): region
            for k, name in enumerate(classes)
            for region in regionprops(
                label(blobs(i) == EVERY.index(name), connectivity=2)
            )
        }
        found = {}
        for instance in instances:
            x, y, right, bottom = instance['bbox']
            found[instance['bbox_label'], y, x, bottom, right] = instance
        assert len(found) == len(instances) and set(found) == set(expected)
        for key, region in expected.items():
            mask = mask_utils.decode(found[key]['mask'])
            assert mask.shape == (96, 128)
            assert (
                np.argwhere(mask) == np.array(sorted(region.coords.tolist()))
            ).all()
            assert found[key]['ignore_flag'] == (region.area < 144)


def test_small_regions_are_ignored_as_asked(root):
    ignored = [
        sum(
            instance['ignore_flag']
            for i in range(3)
            for instance in build(root, min_area=area).get_data_info(i)[
                'instances'
            ]
        )
        for area in (0, 144, 10**6)
    ]
    assert 0 == ignored[0] < ignored[1] < ignored[2]


def test_images_without_instances_are_left_out_of_training_if_asked(root):
    Image.fromarray(np.zeros((96, 128), np.uint8)).save(
        root / 'annotations/val/1.png'
    )
    wanted = dict(filter_empty_gt=True)
    assert [
        len(build(root, **kwargs))
        for kwargs in (
            dict(test_mode=False),
            dict(filter_cfg=wanted),
            dict(filter_cfg=wanted, test_mode=False),
        )
    ] == [3, 3, 2]
    with pytest.raises(ValueError, match='min_size'):
        build(root, filter_cfg=dict(min_size=32))


def test_what_is_found_as_labeled_scores_1(root):
    dataset = build(root)
    metric = CocoBoundaryMetric(metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for data in dataset:
        sample = data['data_samples']
        truth = sample.gt_instances
        found = dict(
            bboxes=truth.bboxes.tensor,
            labels=truth.labels,
            scores=torch.ones(len(truth.labels)),
            masks=truth.masks.to_tensor(torch.bool, 'cpu'),
        )
        metric.process({}, [dict(sample.to_dict(), pred_instances=found)])
    scores = metric.evaluate(len(dataset))
    assert len(dataset) == 3
    for key in ('bbox_mAP', 'segm_mAP', 'boundary_mAP'):
        assert scores[f'coco/{key}'] == 1


def test_data_that_are_not_there_are_named(root):
    (root / 'annotations/val/1.png').unlink()
    with pytest.raises(FileNotFoundError, match='1.png.*MMBCKD_CAMVID'):
        build(root)
    for file in (root / 'images/val').iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match='holds none.*MMBCKD_CAMVID'):
        build(root)
    (root / 'images/val').rmdir()
    with pytest.raises(FileNotFoundError, match='does not exist'):
        build(root)


def test_unknown_class_is_named(root):
    with pytest.raises(ValueError, match=r"\['cat'\]"):
        build(root, metainfo=dict(classes=('car', 'cat')))
