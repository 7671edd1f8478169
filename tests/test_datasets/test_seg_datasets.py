import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmbckd.datasets.street_scenes import write_dataset
from tests.data_layouts import write_camvid


def build(kind, root, **kwargs):
    init_default_scope('mmseg')
    return DATASETS.build(
        dict(
            type=kind,
            data_root=str(root),
            data_prefix=dict(
                img_path='images/val', seg_map_path='annotations/val'
            ),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
            ],
            **kwargs,
        )
    )


def test_street_scenes_load_with_their_labels(tmp_path):
    write_dataset(tmp_path, 1, 2, (64, 128), seed=0)
    dataset = build('StreetScenesDataset', tmp_path)
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample['img'].shape == (64, 128, 3)
    labels = np.unique(sample['gt_seg_map'])
    assert len(labels) > 3 and labels.max() < len(dataset.metainfo['classes'])


@pytest.mark.parametrize(
    'make, words',
    [
        (False, 'does not exist'),
        (True, 'holds none'),
    ],
)
@pytest.mark.parametrize(
    'kind, hint',
    [
        ('CamVidDataset', 'MMBCKD_CAMVID'),
        ('StreetScenesDataset', 'mim run mmbckd street_scenes {tmp_path}'),
    ],
)
def test_missing_and_empty_folders_say_what_to_do(
    tmp_path, kind, hint, make, words
):
    if make:
        (tmp_path / 'images' / 'val').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=words) as error:
        build(kind, tmp_path)
    assert hint.format(tmp_path=tmp_path) in str(error.value)
    assert 'images/val' in str(error.value)


def test_camvid_loads_with_its_labels(tmp_path):
    """Class ids as they are in the files, 255 where nothing is labeled."""
    write_camvid(tmp_path)
    dataset = build('CamVidDataset', tmp_path)
    assert len(dataset) == 1
    sample = dataset[0]
    labels = np.array(Image.open(sample['seg_map_path']))
    np.testing.assert_array_equal(sample['gt_seg_map'], labels)
    num_classes = len(dataset.metainfo['classes'])
    assert num_classes == len(dataset.metainfo['palette'])
    assert set(np.unique(labels)) <= {*range(num_classes), 255}
