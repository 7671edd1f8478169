"""The check of data sets finds what is missing, misplaced or broken in each,
and nothing in data as they should be."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmbckd.datasets import checks
from tests.data_layouts import write_datasets
from tests.data_layouts_coco import write_coco

CONFIGS = {
    'voc': 'mmseg::_base_/datasets/pascal_voc12_aug.py',
    'cityscapes': 'mmseg::_base_/datasets/cityscapes.py',
    'ade': 'mmseg::_base_/datasets/ade20k.py',
    'coco_stuff10k': 'mmseg::_base_/datasets/coco-stuff10k.py',
    'coco': 'mmdet::_base_/datasets/coco_instance.py',
}
VOC = Path('data/VOCdevkit/VOC2012')
ADE = Path('data/ade/ADEChallengeData2016')
CITYSCAPES = Path('data/cityscapes')
STUFF = Path('data/coco_stuff10k')
COCO = Path('data/coco')


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp('data_sets')
    write_datasets(root)
    write_coco(root / COCO, train=3, val=2)
    return root


@pytest.fixture
def here(written, tmp_path, monkeypatch):
    """A copy of the data sets in the current directory."""
    shutil.copytree(written / 'data', tmp_path / 'data')
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Upstream's configs of the data, each in one file, which is fast."""
    folder = tmp_path_factory.mktemp('configs')
    files = {}
    for name, base in CONFIGS.items():
        scope, _, path = base.partition('::')
        package = Path(importlib.util.find_spec(scope).origin).parent
        cfg = Config.fromfile(package / '.mim/configs' / path)
        cfg.default_scope = scope
        files[name] = folder / f'{name}.py'
        cfg.dump(files[name])
    return files


@pytest.fixture
def check(here, configs):
    """Checks a data set, and returns its problems."""

    def run(name, num_samples=20, **changes):
        cfg = Config.fromfile(configs[name])
        cfg.merge_from_dict(changes)
        return [
            problem
            for report in checks.check_config(cfg, num_samples)
            for problem in report.problems
        ]

    return run


def move(source, target):
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def only(problems):
    """The problem, if there is one and it is said once a data set."""
    kinds = set(problems)
    assert len(kinds) == 1, kinds
    return kinds.pop()


# What is as it should be


@pytest.mark.parametrize('name', CONFIGS)
def test_good_layout_has_no_problem_but_a_warning_of_its_few_images(
    here, configs, name
):
    reports = checks.check_config(Config.fromfile(configs[name]))
    assert not any(report.problems for report in reports)
    number = dict(
        voc='9,118',
        cityscapes='2,975',
        ade='20,210',
        coco_stuff10k='9,000',
        coco='118,287',
    )[name]
    warnings = ' '.join(w for report in reports for w in report.warnings)
    assert f'Expected {number} images' in warnings
    assert ('117,266 of the images to have annotations' in warnings) == (
        name == 'coco'
    )


def test_val_and_test_of_one_data_set_are_checked_once(here, configs):
    reports = checks.check_config(Config.fromfile(configs['cityscapes']))
    assert [report.title.partition(':')[0] for report in reports] == [
        'train',
        'val, test',
    ]


def test_repeated_data_set_is_checked_inside(check, configs):
    dataset = Config.fromfile(configs['ade']).train_dataloader.dataset
    repeated = dict(type='RepeatDataset', times=2, dataset=dataset)
    shutil.rmtree(ADE / 'images/training')
    for loader in ({}, dict(dataset=repeated)):
        assert 'training' in only(check('ade', train_dataloader=loader))


@pytest.mark.parametrize('change', ['PascalVocDataset', None])
def test_data_set_that_is_not_registered_is_named(check, change):
    with pytest.raises(ValueError, match=f'registered .*train is .?{change}'):
        check('cityscapes', **{'train_dataloader.dataset.type': change})


# What is missing or misplaced


def test_misplaced_folder_says_what_is_near_it(check):
    """The next folder that exists, and what it holds."""
    move(ADE, 'elsewhere')
    move('elsewhere', 'data/ade/images_and_labels')
    for problem in check('ade'):
        assert 'data/ade holds images_and_labels/' in problem
        assert f'in {ADE.parent}.' in problem


def test_folder_that_is_not_there_is_said_once_with_what_to_unpack(check):
    archives = dict(
        voc='VOCtrainval_11-May-2012.tar',
        cityscapes='leftImg8bit_trainvaltest.zip',
        ade='ADEChallengeData2016.zip',
        coco_stuff10k='cocostuff-10k-v1.1.zip',
        coco='annotations_trainval2017.zip',
    )
    shutil.rmtree('data')
    for name, archive in archives.items():
        problem = check(name)[0]
        assert archive in problem and 'missing or misplaced' in problem
        assert str(Path.cwd()) in problem


def test_voc_without_its_augmentation_names_the_converter(check):
    shutil.rmtree(VOC / 'SegmentationClassAug')
    (VOC / 'ImageSets/Segmentation/aug.txt').unlink()
    for problem in check('voc'):
        assert 'voc_aug data/VOCdevkit data/VOCdevkit/VOCaug' in problem
    assert len(check('voc')) == 2


def test_cityscapes_without_training_ids_names_what_makes_them(check):
    for file in CITYSCAPES.rglob('*_labelTrainIds.png'):
        file.unlink()
    train, val = check('cityscapes')
    assert '2 are missing' in train and '1 are missing' in val
    for word in (
        'holds aachen_000000_000019_gtFine_labelIds.png',
        'pip install cityscapesscripts',
        'mim run mmsegmentation cityscapes data/cityscapes',
    ):
        assert word in train


def test_coco_stuff_as_downloaded_names_the_converter(check):
    for split in ('train', 'test'):
        for file in (STUFF / f'images/{split}2014').iterdir():
            move(file, STUFF / 'images' / file.name)
        shutil.rmtree(STUFF / f'images/{split}2014')
        for file in (STUFF / f'annotations/{split}2014').iterdir():
            stem = file.name.removesuffix('_labelTrainIds.png')
            move(file, STUFF / f'annotations/{stem}.mat')
        shutil.rmtree(STUFF / f'annotations/{split}2014')
    problems = check('coco_stuff10k')
    assert len(problems) == 4
    for problem in problems:
        assert 'coco_stuff10k data/coco_stuff10k' in problem
    assert '.mat' in problems[1]


def test_coco_stuff_without_training_ids_names_what_is_there(check):
    for file in STUFF.rglob('*_labelTrainIds.png'):
        move(file, str(file).replace('_labelTrainIds', ''))
    problem = check('coco_stuff10k')[0]
    assert 'holds COCO_train2014_000000000077.png' in problem
    assert 'run mmsegmentation coco_stuff10k' in problem


def test_coco_without_annotations_names_them_and_their_archive(check):
    shutil.rmtree(COCO / 'annotations')
    train, val = check('coco')
    assert 'instances_train2017.json' in train and 'holds train2017/' in train
    assert 'instances_val2017.json' in val
    assert 'annotations_trainval2017.zip' in val


@pytest.mark.parametrize(
    'change',
    [
        dict(ann_file='mine.json'),
        # Instances for detectors, which lie otherwise than mmseg's.
        dict(type='CityscapesDataset', data_root='data/other'),
    ],
)
def test_data_of_ones_own_are_not_to_be_downloaded(check, change):
    problem = check('coco', train_dataloader=dict(dataset=change))[0]
    assert problem.endswith(checks.HINT)


def test_annotation_file_of_the_evaluator_is_checked(check):
    problem = only(
        check('coco', val_evaluator=dict(ann_file='data/coco/other.json'))
    )
    assert 'data/coco/other.json for CocoMetric' in problem


def test_split_file_that_names_other_images(check):
    with open(VOC / 'ImageSets/Segmentation/val.txt', 'a') as file:
        file.write('2007_999999\n2007_000033.jpg\n')
    images, maps = check('voc')
    assert (
        '3 entries of data/VOCdevkit/VOC2012/ImageSets/Segmentation/'
        'val.txt' in images
    )
    assert '2 are missing' in images and '2007_999999.jpg' in images
    assert '2007_999999.png' in maps


def test_empty_folder_and_other_suffix_say_what_is_there(check):
    (file,) = (ADE / 'images/validation').iterdir()
    move(file, file.with_suffix('.JPEG'))
    problem = check('ade')[0]
    assert '*.jpg' in problem and 'ADE_val_00000001.JPEG' in problem
    file.with_suffix('.JPEG').unlink()
    assert 'is empty' in check('ade')[0]


def test_image_without_label_map_and_label_map_without_image(check):
    (ADE / 'images/training/ADE_train_00000001.jpg').unlink()
    assert 'annotations/training/ADE_train_00000001.png' in only(check('ade'))
    (ADE / 'annotations/training/ADE_train_00000002.png').unlink()
    lost, left = check('ade')
    assert '1 are missing' in lost and 'ADE_train_00000002.png' in lost
    assert '1 have none' in left and 'ADE_train_00000001.png' in left


def test_label_maps_of_all_splits_may_share_a_folder(check):
    """Those without an image in one split have theirs in another."""
    shared = ADE / 'annotations/training'
    for file in (ADE / 'annotations/validation').iterdir():
        file.rename(shared / file.name)
    places = {
        f'{split}_dataloader.dataset.data_prefix.seg_map_path': (
            'annotations/training'
        )
        for split in ('train', 'val', 'test')
    }
    assert check('ade', **places) == []
    (ADE / 'images/training/ADE_train_00000001.jpg').unlink()
    problems = check('ade', **places)
    assert problems
    for problem in problems:
        assert '1 have none' in problem
        assert 'ADE_train_00000001.png' in problem


# What is broken

FILES = {
    'voc': (
        VOC / 'JPEGImages/2008_000002.jpg',
        VOC / 'SegmentationClassAug/2008_000002.png',
    ),
    'cityscapes': (
        CITYSCAPES
        / 'leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png',
        CITYSCAPES
        / 'gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png',
    ),
    'ade': (
        ADE / 'images/training/ADE_train_00000002.jpg',
        ADE / 'annotations/training/ADE_train_00000002.png',
    ),
    'coco_stuff10k': (
        STUFF / 'images/train2014/COCO_train2014_000000000077.jpg',
        STUFF
        / 'annotations/train2014'
        / 'COCO_train2014_000000000077_labelTrainIds.png',
    ),
    'coco': (COCO / 'train2017/000000001001.jpg',),
}
CLASSES = dict(voc=21, cityscapes=19, ade=150, coco_stuff10k=171)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('size', [0, 0.6])
def test_file_that_is_cut_off_is_named(check, name, size):
    for file in FILES[name]:
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * size)])
        problem = only(check(name))
        assert f'Expected {file} to be readable' in problem
        file.write_bytes(whole)


@pytest.mark.parametrize('name', CLASSES)
def test_label_outside_the_classes_is_named(check, name):
    file = FILES[name][1]
    labels = np.array(Image.open(file))
    reduced = name in ('ade', 'coco_stuff10k')
    labels[0, 0] = CLASSES[name] + reduced
    Image.fromarray(labels).save(file)
    problem = only(check(name))
    assert f'labels 0 to {CLASSES[name] - 1}, or 255' in problem
    assert f'{file} has [{CLASSES[name]}]' in problem
    # The last class and what is to be ignored may be there.
    labels[0] = CLASSES[name] + reduced - 1
    labels[1] = 0 if reduced else 255
    Image.fromarray(labels).save(file)
    assert not check(name)


@pytest.mark.parametrize('name', CLASSES)
def test_label_map_of_another_size_or_in_color_is_named(check, name):
    file = FILES[name][1]
    labels = Image.open(file)
    shape = (labels.height, labels.width)
    for wrong in (labels.crop((0, 0, 32, 40)), labels.convert('RGB')):
        wrong.save(file)
        problem = only(check(name))
        assert f'height and width {shape}' in problem and str(file) in problem
        assert str(np.shape(wrong)) in problem


def test_image_that_is_not_of_the_size_that_coco_says_is_named(check):
    (file,) = FILES['coco']
    Image.new('RGB', (128, 48)).save(file)
    problem = only(check('coco'))
    assert f'{file} to be of height and width (96, 128)' in problem
    assert 'it is (48, 128)' in problem


def test_annotation_file_that_is_cut_off_is_named(check):
    file = COCO / 'annotations/instances_val2017.json'
    file.write_text(file.read_text()[:-100])
    problem = only(check('coco'))
    assert 'JSONDecodeError' in problem and '.zip' in problem


def test_categories_that_are_not_the_classes_are_named(check):
    file = COCO / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    content['categories'][0]['name'] = 'somebody'
    file.write_text(json.dumps(content))
    assert 'it has 79 of them' in only(check('coco'))


def test_training_set_without_annotations_is_named(check):
    file = COCO / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    file.write_text(json.dumps(dict(content, annotations=[])))
    assert 'none of its 4 passes `filter_cfg`' in only(check('coco'))


def test_samples_are_spread_evenly_and_limited(here, configs, monkeypatch):
    folder = ADE / 'images/training'
    for i in range(3, 12):
        for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
            name = f'training/ADE_train_{1:08}.{suffix}'
            shutil.copy(
                ADE / kind / name,
                ADE
                / kind
                / name.replace('1.', f'{i:02}.').replace(
                    '0000000', '000000', 1
                ),
            )
    assert len(list(folder.iterdir())) == 11
    opened = []
    size = checks._image_size
    monkeypatch.setattr(
        checks,
        '_image_size',
        lambda file: opened.append(Path(file).stem[-2:]) or size(file),
    )
    report = checks.check_config(Config.fromfile(configs['ade']), 3)[0]
    assert not report.problems and report.facts[-1] == 'opened: 3'
    assert opened[:3] == ['01', '06', '11']


def test_many_broken_files_are_counted_instead_of_listed(check):
    names = [f'2007_{i:06}' for i in range(100, 112)]
    for name in names:
        (VOC / f'JPEGImages/{name}.jpg').write_bytes(b'')
        shutil.copy(FILES['voc'][1], VOC / f'SegmentationClass/{name}.png')
    (VOC / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(names))
    problems = check('voc')
    assert len(problems) == 6 and '7 more of the 12' in problems[-1]
