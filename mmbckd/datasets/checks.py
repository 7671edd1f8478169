"""Checks of data sets: before a training, and of its batches."""

import os
import os.path as osp
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file, load
from mmengine.registry import DATASETS, DefaultScope
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image, ImageOps
from torch import Tensor

SPLITS = ('train', 'val', 'test')
HINT = 'Correct `data_root`, `data_prefix` and `ann_file` of the config.'
LAYOUTS = load(osp.join(osp.dirname(__file__), 'layouts.yml'))
_FILES = {'img_path': 'images', 'seg_map_path': 'label maps'}
_MAX_NAMES, _MAX_PROBLEMS = 6, 5


def check_labels(
    labels: np.ndarray | Tensor, num_classes: int, ignore_index: int, name: str
) -> None:
    """Raise unless a label map holds classes and ignored pixels only.

    Args:
        labels (np.ndarray | Tensor): Integers, of any shape, in host memory.
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


@dataclass
class Report:
    """What was found of a data set.

    Attributes:
        title (str): The splits that use it, its type and where it is.
        facts (list[str]): What is there.
        warnings (list[str]): What is unusual, but can be trained on.
        problems (list[str]): What is wrong: what was expected, what was
            found, and what to do.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


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
    for split, dataset in datasets_of(cfg):
        same = {k: v for k, v in dataset.items() if k != 'pipeline'}
        datasets.setdefault(repr(same), (dataset, []))[1].append(split)
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        checks = [_Check(*each) for each in datasets.values()]
        for check in checks:
            check.find()
        label_maps = set().union(*(check.label_maps for check in checks))
        reports = [check.run(num_samples, label_maps) for check in checks]
    read = {check.ann_file for check in checks}
    for evaluator in evaluators_of(cfg):
        file = osp.normpath(evaluator['ann_file'])
        if file not in read and not osp.isfile(file):
            reports[-1].problems.append(
                f'Expected {file} for {evaluator["type"]} to read, but it is '
                f'missing; {_nearest(file)}. Correct `ann_file` of the '
                'evaluator.'
            )
    return reports


def dataset_class(kind: str | type | None) -> type | None:
    """The class that a data set's ``type`` names in the default scope.

    Args:
        kind (str | type | None): The ``type``, a class in pure Python configs.

    Returns:
        type | None: None if there is none of that name.
    """
    if not isinstance(kind, str):
        return kind
    # The root registry knows those of the default scope only so.
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


class _Check:
    """The check of one data set, from where it should lie to its pixels."""

    def __init__(self, cfg: dict, splits: list[str]) -> None:
        name = cfg.get('type')
        kind = dataset_class(name)
        if kind is None:
            raise ValueError(
                'Expected a data set with a registered `type`, but that of '
                f'{", ".join(dict.fromkeys(splits))} is {name!r}. Correct it, '
                'or import the module that registers it by custom_imports.'
            )
        self.cfg, self.kind = cfg, kind.__name__
        self.root = osp.normpath(cfg.get('data_root') or '.')
        folders = cfg.get('data_prefix') or {'img_path': ''}
        self.folders = {k: self.path(name) for k, name in folders.items()}
        ann_file = cfg.get('ann_file')
        self.ann_file = self.path(ann_file) if ann_file else ''
        self.places = list(
            filter(None, [*self.folders.values(), self.ann_file])
        )
        # What lists the images; without a file that is their folder.
        self.list = self.ann_file or self.places[0]
        library = kind.__module__.partition('.')[0]
        self.layout = LAYOUTS.get(f'{library}.{self.kind}')
        if self.layout is None or (
            # A list of one's own, in the public data set's format.
            self.ann_file and self.list_name not in self.layout['images']
        ):
            self.layout = dict(get=getattr(kind, 'HINT', HINT))
        names = ', '.join(osp.relpath(p, self.root) for p in self.places)
        self.report = Report(
            f'{", ".join(dict.fromkeys(splits))}: {self.kind} in {self.root} '
            f'({names})'
        )

    @property
    def list_name(self) -> str:
        """What lists the images, by its place in the data set."""
        return osp.relpath(self.list, self.root)

    def path(self, name: str) -> str:
        return osp.normpath(osp.join(self.root, name))

    def hint(self, path: str) -> str:
        """How to get what should be at a path."""
        text = self.layout['get']
        for part, how in self.layout.get('made', {}).items():
            if part in osp.relpath(path, self.root):
                text = how
        parent = osp.dirname(self.root) or '.'
        return text.replace('{root}', self.root).replace('{parent}', parent)

    def expect(self, what: str, found: str, path: str, todo: str = '') -> None:
        """Note a problem with what should be at a path."""
        self.report.problems.append(
            f'Expected {what}, but {found}. {todo or self.hint(path)}'
        )

    def find(self) -> None:
        """List the images, if what lists them is there."""
        for place in self.places:
            if not osp.exists(place):
                found = f'it is missing or misplaced; {_nearest(place)}'
                self.expect(place, found, place)
        self.listed = [] if self.report.problems else self.load()

    @property
    def label_maps(self) -> set[str]:
        """The label maps of the images."""
        found = (info.get('seg_map_path') for info in self.listed)
        return {osp.normpath(file) for file in found if file}

    def run(self, num_samples: int, label_maps: set[str]) -> Report:
        """Go as far as what is there allows.

        Args:
            num_samples (int): How many images to open.
            label_maps (set[str]): Those of all data sets of the config, which
                may share a folder.
        """
        if self.listed:
            self.check_number(len(self.listed))
            self.check_samples(self.check_files(label_maps), num_samples)
        return self.report

    def load(self) -> list[dict]:
        """The images that the data set lists; none where it says why."""
        try:
            self.dataset: BaseDataset = DATASETS.build(
                dict(self.cfg, lazy_init=True)
            )
            listed = self.dataset.data_list = self.dataset.load_data_list()
        except Exception as error:
            what = f'a data set that {self.kind} can load'
            self.expect(what, f'it says {_reason(error)}', self.list)
            return []
        if not listed:
            what = f'images *{getattr(self.dataset, "img_suffix", "")}'
            found = f'there are none; {_nearest(self.list)}'
            self.expect(f'{what} in {self.list}', found, self.list)
        return listed

    def check_number(self, number: int) -> None:
        """As many images and classes as expected, and some to train on."""
        used = len(self.dataset.filter_data())
        after = f', {used:,} after `filter_cfg`' if used != number else ''
        self.report.facts.append(f'images: {number:,}{after}')
        if not used:
            self.expect(
                f'images to use in {self.list}',
                f'none of its {number:,} passes `filter_cfg`',
                self.list,
                'Get an annotation file with instances of the classes, or '
                'correct `filter_cfg`.',
            )
        classes = self.dataset.metainfo.get('classes') or ()
        categories = getattr(self.dataset, 'cat_ids', classes)
        if len(categories) != len(classes):
            self.expect(
                f'the {len(classes)} classes of {self.kind} among the '
                f'categories of {self.ann_file}',
                f'it has {len(categories)} of them',
                self.ann_file,
                'Set `metainfo` to the classes of your data, or get the right '
                'annotation file.',
            )
        if self.cfg.get('indices') is not None:
            return
        key = self.list_name
        images = self.layout.get('images', {}).get(key, number)
        if number != images:
            self.report.warnings.append(
                f'Expected {images:,} images as {self.kind} has in {key}, '
                f'but found {number:,}.'
            )
        annotated = self.layout.get('annotated', {}).get(key, used)
        if used not in (number, annotated):
            self.report.warnings.append(
                f'Expected {annotated:,} of the images to have annotations, '
                f'but {used:,} have.'
            )

    def check_files(self, label_maps: set[str]) -> list[dict]:
        """The entries whose files are all there."""
        listed = self.listed
        lost: set[str] = set()
        for key, what in _FILES.items():
            files = [info[key] for info in listed if info.get(key)]
            missing = [file for file in files if not osp.isfile(file)]
            lost.update(missing)
            if missing:
                self.expect(
                    f'the {what} of all {len(files):,} entries of {self.list}',
                    f'{len(missing):,} are missing: {_some(missing)}; '
                    f'{_nearest(missing[0])}',
                    missing[0],
                )
        folder = self.folders.get('seg_map_path')
        if folder and not self.ann_file:
            # No file lists them: a label map without an image means that an
            # image is missing.
            suffix = self.dataset.seg_map_suffix
            found = list_dir_or_file(folder, False, True, suffix, True)
            left = {osp.join(folder, name) for name in found} - label_maps
            if left:
                images = self.folders['img_path']
                self.expect(
                    f'an image in {images} for each label map',
                    f'{len(left):,} have none: {_some(sorted(left))}',
                    images,
                    f'Get the images, or remove these. {self.hint(images)}',
                )
        return [x for x in listed if lost.isdisjoint(map(x.get, _FILES))]

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
        if more := len(problems[_MAX_PROBLEMS:]):
            self.report.problems.append(
                f'{more} more of the {num_samples} files that were opened '
                'have problems too. Correct these first and check again.'
            )

    def check_sample(self, info: dict) -> None:
        """Open an image and its label map, as training will.

        Raises:
            ValueError: If something is wrong with them.
        """
        file = osp.normpath(info['img_path'])
        size = self.read(_image_size, file)
        listed = info.get('height', size[0]), info.get('width', size[1])
        if size != listed:
            raise ValueError(
                f'Expected {file} to be of height and width {listed} as '
                f'{self.ann_file} says, but it is {size}. Get images and '
                'annotations that belong together.'
            )
        steps = self.dataset.pipeline.transforms
        loads = [step for step in steps if isinstance(step, LoadAnnotations)]
        if not loads or info.get('seg_map_path') is None:
            return
        file = osp.normpath(info['seg_map_path'])
        labels = self.read(lambda _: loads[0](dict(info))['gt_seg_map'], file)
        if labels.shape != size:
            raise ValueError(
                f'Expected {file} to be a label map of height and width '
                f'{size} as its image, but its shape is {labels.shape}. '
                f'{self.hint(file)}'
            )
        num_classes = len(self.dataset.metainfo['classes'])
        check_labels(labels, num_classes, self.dataset.ignore_index, file)

    def read(self, how: Callable[[str], Any], file: str) -> Any:
        """What a function reads from a file; a ValueError if it cannot."""
        try:
            return how(file)
        except Exception as error:
            raise ValueError(
                f'Expected {file} to be readable, but it is not: '
                f'{_reason(error)} ({osp.getsize(file):,} bytes). Get it '
                f'again. {self.hint(file)}'
            ) from error


def datasets_of(cfg: Config) -> list[tuple[str, dict]]:
    """Splits and configs of the data sets, taken out of their wrappers.

    Raises:
        ValueError: If there is none.
    """

    def leaves(node: dict) -> Iterator[dict]:
        children = node.get('datasets') or [node.get('dataset')]
        if not isinstance(children[0], dict):
            yield node
            return
        for child in children:
            yield from leaves(child)

    loaders = {s: cfg.get(f'{s}_dataloader') or {} for s in SPLITS}
    found = [
        (split, leaf)
        for split, loader in loaders.items()
        if 'dataset' in loader
        for leaf in leaves(loader['dataset'])
    ]
    if not found:
        raise ValueError(
            'Expected a config with a data set in its train_dataloader, '
            'val_dataloader or test_dataloader, but got one without. Name the '
            'config that you will train.'
        )
    return found


def evaluators_of(cfg: Config) -> list[dict]:
    """The evaluators that read an annotation file of their own."""
    found = [cfg.get(f'{split}_evaluator') or [] for split in SPLITS]
    lists = [each if isinstance(each, list) else [each] for each in found]
    return [each for each in sum(lists, []) if each.get('ann_file')]


def _nearest(path: str) -> str:
    """The last folder on a path that exists, and what is in it."""
    while path and not osp.isdir(path):
        path = osp.dirname(path)
    path = path or os.getcwd()
    _, folders, files = next(os.walk(path), ('', [], []))
    names = [f'{name}/' for name in sorted(folders)] + sorted(files)
    return f'{path} holds {_some(names)}' if names else f'{path} is empty'


def _some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names[_MAX_NAMES:])
    first = ', '.join(names[:_MAX_NAMES])
    return f'{first} and {more:,} more' if more else first


def _image_size(file: str) -> tuple[int, int]:
    """Height and width of an image as OpenCV turns it, all of it decoded:
    OpenCV fills up in gray what is cut off."""
    with Image.open(file) as image:
        image.load()
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.rstrip('.')
