"""Checks of data sets: before a training, and of its batches."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from mmseg.datasets.transforms import LoadAnnotations
from numpy import ndarray
from PIL import Image, ImageOps
from torch import Tensor

SPLITS = ('train', 'val', 'test')
# What a file that is not as it should be makes those raise who read it: PIL a
# SyntaxError among others, mmseg, mmdet and pycocotools an AssertionError.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    AssertionError,
)
# How far to look for what is mislaid.
_MAX_DEPTH, _MAX_FOLDERS = 3, 2000
_MAX_NAMES, _MAX_PROBLEMS = 6, 5


class Known(NamedTuple):
    """What is known of a public data set.

    In the texts, {root} stands for the data root and {parent} for the folder
    that it is in.

    Attributes:
        get (str): How to get it.
        numbers (dict): Number of images by annotation file, or by the folder
            of images where there is none.
        annotated (dict): The same of those that have annotations.
        made (dict): How to make what no download holds, by a part of its path.
    """

    get: str
    numbers: dict = {}
    annotated: dict = {}
    made: dict = {}


def _converter(name: str, arguments: str) -> str:
    return (
        f'`python tools/dataset_converters/{name}.py {arguments}` in '
        "MMSegmentation's source tree, or anywhere "
        f'`mim run mmsegmentation {name} {arguments}`'
    )


_VOC_AUG = (
    'Get the additional annotations (SBD, benchmark.tgz) so that '
    '{parent}/VOCaug/dataset/cls holds *.mat, then run '
    + _converter('voc_aug', '{parent} {parent}/VOCaug --nproc 8')
    + '.'
)

KNOWN = dict(
    PascalVOCDataset=Known(
        'Unpack VOCtrainval_11-May-2012.tar so that its VOC2012 becomes '
        '{root}.',
        numbers={
            'ImageSets/Segmentation/train.txt': 1_464,
            'ImageSets/Segmentation/aug.txt': 9_118,
            'ImageSets/Segmentation/trainaug.txt': 10_582,
            'ImageSets/Segmentation/val.txt': 1_449,
        },
        made={'SegmentationClassAug': _VOC_AUG, 'aug.txt': _VOC_AUG},
    ),
    CityscapesDataset=Known(
        'Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in '
        '{root}.',
        numbers={'leftImg8bit/train': 2_975, 'leftImg8bit/val': 500},
        made={
            '_labelTrainIds.png': 'Make them: '
            '`pip install cityscapesscripts`, then `CITYSCAPES_DATASET={root} '
            'csCreateTrainIdLabelImgs` (its '
            'createTrainIdLabelImgs.py), or '
            + _converter('cityscapes', '{root} --nproc 8')
            + '.'
        },
    ),
    ADE20KDataset=Known(
        'Unpack ADEChallengeData2016.zip in {parent}.',
        numbers={'images/training': 20_210, 'images/validation': 2_000},
    ),
    COCOStuffDataset=Known(
        'Unpack cocostuff-10k-v1.1.zip in {root}, then run '
        + _converter('coco_stuff10k', '{root} --nproc 8')
        + '.',
        numbers={'images/train2014': 9_000, 'images/test2014': 1_000},
        made={
            '2017': 'Run '
            + _converter('coco_stuff164k', '{root} --nproc 8')
            + '.'
        },
    ),
    CocoDataset=Known(
        'Unpack train2017.zip, val2017.zip and '
        'annotations_trainval2017.zip in {root}.',
        numbers={
            'annotations/instances_train2017.json': 118_287,
            'annotations/instances_val2017.json': 5_000,
        },
        annotated={'annotations/instances_train2017.json': 117_266},
    ),
)


def check_labels(
    labels: ndarray | Tensor, num_classes: int, ignore_index: int, name: str
) -> None:
    """Raise unless a label map holds classes and ignored pixels only.

    Args:
        labels (ndarray | Tensor): Integers, of any shape, in host memory.
        num_classes (int): Number of classes.
        ignore_index (int): The label of pixels to ignore.
        name (str): Where it is from, for the message.

    Raises:
        ValueError: If there is another label.
    """
    wrong = (labels < 0) | (labels >= num_classes)
    wrong &= labels != ignore_index
    if wrong.any():
        raise ValueError(
            f'Expected labels 0 to {num_classes - 1}, or {ignore_index} for '
            f'pixels to ignore, but {name} has '
            f'{np.unique(labels[wrong]).tolist()}. Correct the annotation, '
            'or `num_classes` and `reduce_zero_label` of the config.'
        )


class Report:
    """What was found of a data set.

    Attributes:
        title (str): The splits that use it, its type and where it is.
        facts (list[str]): What is there.
        warnings (list[str]): What is unusual, but can be trained on.
        problems (list[str]): What is wrong: what was expected, what came,
            and what to do.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.facts: list[str] = []
        self.warnings: list[str] = []
        self.problems: list[str] = []


def check_config(cfg: Config, num_samples: int = 20) -> list[Report]:
    """Check the data sets that a config trains, validates and tests on.

    Args:
        cfg (Config): The config.
        num_samples (int): Number of images and label maps of each data set to
            open, evenly spaced. Defaults to 20.

    Returns:
        list[Report]: One for each data set, in order of the splits.

    Raises:
        ValueError: If the config has no data set.
    """
    datasets: dict = {}
    for split, dataset in _datasets(cfg):
        same = {k: v for k, v in dataset.items() if k != 'pipeline'}
        datasets.setdefault(repr(same), (dataset, []))[1].append(split)
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        reports = [
            _DatasetCheck(dataset, splits).run(num_samples)
            for dataset, splits in datasets.values()
        ]
    reports[-1].problems += _evaluator_problems(cfg)
    return reports


def set_data_root(cfg: Config, data_root: str) -> str:
    """Have all data sets and evaluators of a config read another folder.

    Args:
        cfg (Config): The config, which is changed.
        data_root (str): The data root to set.

    Returns:
        str: The data root that the config had.

    Raises:
        ValueError: If it had no or several data roots.
    """
    datasets = [dataset for _, dataset in _datasets(cfg)]
    roots = {osp.normpath(d.get('data_root') or '') for d in datasets}
    if len(roots) > 1 or roots == {'.'}:
        raise ValueError(
            'Expected data sets of one `data_root` to set another, but the '
            f'config has {sorted(roots)}. Check it without --data-root.'
        )
    (old,) = roots
    for dataset in datasets:
        dataset['data_root'] = data_root
    for evaluator in _evaluators(cfg):
        file = osp.normpath(evaluator['ann_file'])
        if file.startswith(old + os.sep):
            evaluator['ann_file'] = osp.join(data_root, osp.relpath(file, old))
    return old


class _DatasetCheck:
    """The check of one data set, from where it should lie to its pixels."""

    def __init__(self, cfg: dict, splits: list[str]) -> None:
        kind = cfg['type']
        self.kind = kind if isinstance(kind, str) else kind.__name__
        self.kind = self.kind.rpartition('.')[2]
        self.cfg = cfg
        self.root = cfg.get('data_root') or '.'
        self.ann_file = cfg.get('ann_file') or ''
        self.folders = {
            key: folder.rstrip('/')
            for key, folder in (cfg.get('data_prefix') or {}).items()
        }
        self.known = KNOWN.get(self.kind)
        if self.known is None:
            if isinstance(kind, str):
                # The root registry knows those of the default scope so only.
                with DATASETS.switch_scope_and_registry(None) as registry:
                    kind = registry.get(kind)
            self.known = Known(
                getattr(
                    kind,
                    'HINT',
                    'Correct `data_root`, `data_prefix` and '
                    '`ann_file` of the config.',
                )
            )
        places = ', '.join(self.places())
        self.report = Report(
            f'{", ".join(dict.fromkeys(splits))}: '
            f'{self.kind} in {self.root} ({places})'
        )

    def places(self) -> list[str]:
        """The folders and the file that it is in, relative to the root."""
        places = [*self.folders.values(), self.ann_file]
        return [place for place in places if place]

    def path(self, place: str) -> str:
        return osp.normpath(osp.join(self.root, place))

    def hint(self, path: str) -> str:
        """How to get what should be at a path."""
        root = osp.normpath(self.root)
        place = osp.relpath(path, root)
        made = (how for part, how in self.known.made.items() if part in place)
        text = next(made, self.known.get)
        return text.replace('{root}', root).replace(
            '{parent}', osp.dirname(root) or '.'
        )

    def problem(self, expected: str, came: str, todo: str) -> None:
        self.report.problems.append(f'Expected {expected}, but {came}. {todo}')

    def run(self, num_samples: int) -> Report:
        """Go as far as what is there allows."""
        self.check_places()
        if self.report.problems:
            return self.report
        listed = self.load()
        if listed:
            self.check_number(listed)
            self.check_samples(self.check_files(listed), num_samples)
        return self.report

    def check_places(self) -> None:
        """Folders and the annotation file are there."""
        mislaid: dict = {}
        for place in self.places():
            if not osp.exists(self.path(place)):
                mislaid.setdefault(_find(place, self.root), []).append(place)
        lost = mislaid.pop(None, [])
        for where, places in mislaid.items():
            root, names = osp.normpath(self.root), ', '.join(places)
            around = not osp.relpath(root, where).startswith(os.pardir)
            if not osp.isdir(root) and not around:
                self.problem(
                    root,
                    f'found {where}, which is laid out like it',
                    f'Move or link {where} to {root}.',
                )
            else:
                self.problem(
                    f'{names} in {root}',
                    f'found such in {where}',
                    f'Move or link {names} from {where} to {root}.',
                )
        if not mislaid and not osp.isdir(self.root):
            lost = ['']
        for place in lost:
            path = self.path(place)
            self.problem(
                path,
                f'there is none; {_content(_nearest(path))}',
                self.hint(path),
            )

    def load(self) -> list[dict]:
        """The images that the data set lists; none where it says why."""
        try:
            self.dataset: BaseDataset = DATASETS.build(
                dict(self.cfg, lazy_init=True)
            )
            listed = self.dataset.data_list = self.dataset.load_data_list()
        except _UNREADABLE as error:
            self.problem(
                f'a data set that {self.kind} can load',
                f'it says {_reason(error)}',
                self.hint(self.path(self.ann_file)),
            )
            return []
        if not listed:
            place = self.path(
                self.ann_file or next(iter(self.folders.values()))
            )
            suffix = getattr(self.dataset, 'img_suffix', '')
            self.problem(
                f'images{f" *{suffix}" if suffix else ""} in {place}',
                'it names none'
                if self.ann_file
                else f'there are none; {_content(place)}',
                self.hint(place),
            )
        return listed

    def check_number(self, listed: list[dict]) -> None:
        """As many images and classes as expected, and some to train on."""
        number, used = len(listed), len(self.dataset.filter_data())
        key = self.ann_file or next(iter(self.folders.values()), '')
        fact = f'images: {number:,}'
        if used != number:
            fact += f', {used:,} after `filter_cfg`'
        self.report.facts.append(fact)
        if not used:
            self.problem(
                f'images to use in {self.path(key)}',
                f'none of its {number:,} passes `filter_cfg`',
                'Get an annotation file with instances of the classes, or '
                'correct `filter_cfg`.',
            )
        classes = self.dataset.metainfo.get('classes') or ()
        categories = getattr(self.dataset, 'cat_ids', classes)
        if len(categories) != len(classes):
            self.problem(
                f'the {len(classes)} classes of {self.kind} among the '
                f'categories of {self.path(self.ann_file)}',
                f'it has {len(categories)} of them',
                'Set `metainfo` to the '
                'classes of your data, or get the right annotation file.',
            )
        if self.cfg.get('indices') is not None:
            return
        expected = self.known.numbers.get(key, number)
        if number != expected:
            self.report.warnings.append(
                f'Expected {expected:,} images as {self.kind} has in {key}, '
                f'but found {number:,}.'
            )
        expected = self.known.annotated.get(key, used)
        if used not in (number, expected):
            self.report.warnings.append(
                f'Expected {expected:,} of the images to have annotations, '
                f'but {used:,} have.'
            )

    def check_files(self, listed: list[dict]) -> list[dict]:
        """All that is listed is there, and no label map is left over."""
        there = set()
        for folder in self.folders.values():
            there |= _files(self.path(folder))
        suffix = getattr(self.dataset, 'img_suffix', '')
        lost = {
            key: [
                info
                for info in listed
                if info.get(key) is not None
                and osp.normpath(info[key]) not in there
            ]
            for key in ('img_path', 'seg_map_path')
        }
        for key, what in (
            ('img_path', 'images'),
            ('seg_map_path', 'label maps'),
        ):
            if lost[key]:
                self.lost_files(
                    f'{what} of all {len(listed):,} entries of '
                    f'{self.path(self.ann_file)}'
                    if self.ann_file
                    else f'{what} of all {len(listed):,} images',
                    [osp.normpath(info[key]) for info in lost[key]],
                    suffix
                    if key == 'img_path'
                    else self.dataset.seg_map_suffix,
                    there,
                )
        self.check_left_over(listed, there)
        gone = {id(info) for infos in lost.values() for info in infos}
        return [info for info in listed if id(info) not in gone]

    def lost_files(
        self, expected: str, lost: list[str], suffix: str, there: set
    ) -> None:
        """Say which files are missing, and what is there in their place."""
        first = lost[0]
        came = f'{len(lost):,} are missing: {_some(lost)}'
        stem = first.removesuffix(suffix or osp.splitext(first)[1])
        beside = sorted(
            file
            for file in there
            if file.startswith(stem)
            and osp.dirname(file) == osp.dirname(first)
        )
        where = _find(osp.relpath(first, self.root), self.root)
        if where is not None:
            folder = osp.dirname(osp.relpath(first, self.root))
            self.problem(
                expected,
                f'{came}; found such in {where}/{folder}',
                f'Move or link them from there to {osp.dirname(first)}.',
            )
            return
        if beside:
            came += f'; there is {_some(map(osp.basename, beside))} instead'
        self.problem(expected, came, self.hint(first))

    def check_left_over(self, listed: list[dict], there: set) -> None:
        """Where no file lists them, label maps without image mean that images
        are missing."""
        folder = self.folders.get('seg_map_path')
        if self.ann_file or folder is None:
            return
        used = {osp.normpath(info['seg_map_path']) for info in listed}
        within = self.path(folder) + os.sep
        left = sorted(
            file
            for file in there - used
            if file.startswith(within)
            and file.endswith(self.dataset.seg_map_suffix)
        )
        if left:
            images = self.path(self.folders['img_path'])
            self.problem(
                f'an image in {images} for each label map',
                f'{len(left):,} have none: {_some(left)}',
                f'Get the images, or remove these. {self.hint(images)}',
            )

    def check_samples(self, infos: list[dict], num_samples: int) -> None:
        """Some images and label maps are readable and fit together."""
        num_samples = min(num_samples, len(infos))
        picks = np.linspace(0, len(infos) - 1, num_samples).round()
        problems = []
        for pick in picks.astype(int):
            try:
                self.check_sample(infos[pick])
            except ValueError as error:
                problems.append(str(error))
        self.report.facts.append(f'opened: {num_samples:,}')
        self.report.problems += problems[:_MAX_PROBLEMS]
        if len(problems) > _MAX_PROBLEMS:
            self.report.problems.append(
                f'Expected as little wrong with the other files, but so are '
                f'{len(problems) - _MAX_PROBLEMS} more of the {num_samples} '
                'that were opened. Correct these first and check again.'
            )

    def check_sample(self, info: dict) -> None:
        """Open an image and its label map, as training will.

        Raises:
            ValueError: If something is wrong with them.
        """
        file = osp.normpath(info['img_path'])
        size = self.read(file, lambda: _image_size(file))
        listed = info.get('height', size[0]), info.get('width', size[1])
        if size != listed:
            raise ValueError(
                f'Expected {file} to be of height and width {listed} as '
                f'{self.path(self.ann_file)} says, but it is {size}. Get '
                'images and annotations that belong together.'
            )
        load = next(
            (
                step
                for step in self.dataset.pipeline.transforms
                if isinstance(step, LoadAnnotations)
            ),
            None,
        )
        if load is None or info.get('seg_map_path') is None:
            return
        file = osp.normpath(info['seg_map_path'])
        labels = self.read(file, lambda: load(dict(info))['gt_seg_map'])
        if labels.shape != size:
            raise ValueError(
                f'Expected {file} to be a label map of height and width '
                f'{size} as its image, but its shape is {labels.shape}. '
                f'{self.hint(file)}'
            )
        check_labels(
            labels,
            len(self.dataset.metainfo['classes']),
            self.dataset.ignore_index,
            file,
        )

    def read(self, file: str, how):
        """Call ``how``, which reads a file."""
        try:
            return how()
        except _UNREADABLE as error:
            raise ValueError(
                f'Expected {file} to be readable, but it is not: '
                f'{_reason(error)} ({osp.getsize(file):,} bytes). Get it '
                f'again. {self.hint(file)}'
            ) from error


def _datasets(cfg: Config) -> list[tuple[str, dict]]:
    """Splits and configs of the data sets, taken out of their wrappers."""

    def leaves(node: dict) -> Iterator[dict]:
        if 'datasets' in node:
            for child in node['datasets']:
                yield from leaves(child)
        elif isinstance(node.get('dataset'), dict):
            yield from leaves(node['dataset'])
        else:
            yield node

    found = []
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader') or {}
        if 'dataset' in loader:
            found += [(split, leaf) for leaf in leaves(loader['dataset'])]
    if not found:
        raise ValueError(
            'Expected a config with a data set in its train_dataloader, '
            'val_dataloader or test_dataloader, but it has none. Name the '
            'config that you will train.'
        )
    return found


def _evaluators(cfg: Config) -> list[dict]:
    """The evaluators that read an annotation file of their own."""
    found = []
    for split in SPLITS:
        evaluator = cfg.get(f'{split}_evaluator') or []
        found += evaluator if isinstance(evaluator, list) else [evaluator]
    return [evaluator for evaluator in found if evaluator.get('ann_file')]


def _evaluator_problems(cfg: Config) -> list[str]:
    """Annotation files that an evaluator reads but no data set does."""
    read = {
        osp.normpath(
            osp.join(dataset.get('data_root') or '', dataset['ann_file'])
        )
        for _, dataset in _datasets(cfg)
        if dataset.get('ann_file')
    }
    files = {osp.normpath(e['ann_file']): e['type'] for e in _evaluators(cfg)}
    return [
        f'Expected {file} for {kind} to read, but there is none; '
        f'{_content(_nearest(file))}. Correct `ann_file` of the evaluator.'
        for file, kind in files.items()
        if file not in read and not osp.isfile(file)
    ]


def _nearest(path: str) -> str:
    """The last folder on a path that exists."""
    while path and not osp.isdir(path):
        path = osp.dirname(path)
    return path or '.'


def _find(place: str, root: str) -> str | None:
    """The folder in or around ``root`` that ``place`` lies in, if it does.

    Of several the one that is named as ``root`` is, then the nearest.
    """
    root = osp.normpath(root)
    name, parent = osp.basename(root), osp.dirname(root)
    starts = map(_nearest, (root, parent, osp.dirname(parent)))
    for start in dict.fromkeys(starts):
        found = [
            folder
            for folder in _folders(start)
            if osp.exists(osp.join(folder, place))
        ]
        if found:
            return min(found, key=lambda path: osp.basename(path) != name)
    return None


def _folders(start: str) -> Iterator[str]:
    """Folders from ``start`` on, level by level, as far as is bearable."""
    level, number = [osp.normpath(start)], 0
    for _ in range(_MAX_DEPTH + 1):
        below: list[str] = []
        for folder in level:
            number += 1
            if number > _MAX_FOLDERS:
                return
            yield folder
            names = next(os.walk(folder), ('', [], []))[1]
            below += [
                osp.normpath(osp.join(folder, name))
                for name in sorted(names)
                if not name.startswith('.')
            ]
        level = below


def _files(folder: str) -> set[str]:
    """All files in a folder and below."""
    return {
        osp.normpath(osp.join(path, name))
        for path, _, names in os.walk(folder, followlinks=True)
        for name in names
    }


def _content(folder: str) -> str:
    """What is in a folder, folders first."""
    _, folders, files = next(os.walk(folder), ('', [], []))
    names = [f'{name}/' for name in sorted(folders)] + sorted(files)
    folder = osp.abspath(folder) if folder == '.' else folder
    return f'{folder} holds {_some(names)}' if names else f'{folder} is empty'


def _some(names) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = len(names) - _MAX_NAMES
    return ', '.join(names[:_MAX_NAMES]) + (
        f' and {more:,} more' if more > 0 else ''
    )


def _image_size(file: str) -> tuple[int, int]:
    """Height and width of an image as OpenCV turns it, all of it decoded:
    OpenCV fills up in grey what is cut off."""
    with Image.open(file) as image:
        image.load()
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.rstrip('.')
