"""Checks of data sets: before a training, and of its batches."""

import os
import os.path as osp
from collections.abc import Callable, Iterable, Iterator
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
    for split, dataset in _datasets(cfg):
        same = {k: v for k, v in dataset.items() if k != 'pipeline'}
        datasets.setdefault(repr(same), (dataset, []))[1].append(split)
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        checks = [_DatasetCheck(*each) for each in datasets.values()]
        for check in checks:
            check.run(num_samples)
    read = {check.ann_file for check in checks}
    reports = [check.report for check in checks]
    for evaluator in _evaluators(cfg):
        file = osp.normpath(evaluator['ann_file'])
        if file not in read and not osp.isfile(file):
            reports[-1].problems.append(
                f'Expected {file} for {evaluator["type"]} to read, but it is '
                f'missing; {_nearest(file)}. Correct `ann_file` of the '
                'evaluator.'
            )
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
        if isinstance(kind, str):
            # The root registry knows those of the default scope only so.
            with DATASETS.switch_scope_and_registry(None) as registry:
                kind = registry.get(kind)
        self.cfg, self.kind = cfg, kind.__name__
        self.layout = LAYOUTS.get(
            self.kind, dict(get=getattr(kind, 'HINT', HINT))
        )
        self.root = osp.normpath(cfg.get('data_root') or '.')
        self.folders = {
            key: osp.normpath(osp.join(self.root, folder))
            for key, folder in (
                cfg.get('data_prefix') or {'img_path': ''}
            ).items()
        }
        self.places = list(self.folders.values())
        self.ann_file = cfg.get('ann_file') or ''
        if self.ann_file:
            self.ann_file = osp.normpath(osp.join(self.root, self.ann_file))
            self.places.append(self.ann_file)
        # What lists the images; without a file that is their folder.
        self.list = self.ann_file or self.places[0]
        names = ', '.join(osp.relpath(p, self.root) for p in self.places)
        self.report = Report(
            f'{", ".join(dict.fromkeys(splits))}: {self.kind} in {self.root} '
            f'({names})'
        )

    def expect(self, expected: str, found: str, todo: str) -> None:
        self.report.problems.append(
            f'Expected {expected}, but {found}. {todo}'
        )

    def hint(self, path: str) -> str:
        """How to get what should be at a path."""
        text = self.layout['get']
        for part, how in self.layout.get('made', {}).items():
            if part in osp.relpath(path, self.root):
                text = how
        parent = osp.dirname(self.root) or '.'
        return text.replace('{root}', self.root).replace('{parent}', parent)

    def run(self, num_samples: int) -> None:
        """Go as far as what is there allows."""
        for place in self.places:
            if not osp.exists(place):
                self.expect(
                    place,
                    f'it is missing or misplaced; {_nearest(place)}',
                    self.hint(place),
                )
        if self.report.problems:
            return
        listed = self.load()
        if listed:
            self.check_number(listed)
            self.check_samples(self.check_files(listed), num_samples)

    def load(self) -> list[dict]:
        """The images that the data set lists; none where it says why."""
        try:
            self.dataset: BaseDataset = DATASETS.build(
                dict(self.cfg, lazy_init=True)
            )
            listed = self.dataset.data_list = self.dataset.load_data_list()
        except Exception as error:
            self.expect(
                f'a data set that {self.kind} can load',
                f'it says {_reason(error)}',
                self.hint(self.list),
            )
            return []
        if not listed:
            suffix = getattr(self.dataset, 'img_suffix', '')
            self.expect(
                f'images *{suffix} in {self.list}',
                f'there are none; {_nearest(self.list)}',
                self.hint(self.list),
            )
        return listed

    def check_number(self, listed: list[dict]) -> None:
        """As many images and classes as expected, and some to train on."""
        number, used = len(listed), len(self.dataset.filter_data())
        self.report.facts.append(
            f'images: {number:,}'
            + (f', {used:,} after `filter_cfg`' if used != number else '')
        )
        if not used:
            self.expect(
                f'images to use in {self.list}',
                f'none of its {number:,} passes `filter_cfg`',
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
                'Set `metainfo` to the classes of your data, or get the right '
                'annotation file.',
            )
        if self.cfg.get('indices') is not None:
            return
        key = osp.relpath(self.list, self.root)
        expected = self.layout.get('images', {}).get(key, number)
        if number != expected:
            self.report.warnings.append(
                f'Expected {expected:,} images as {self.kind} has in {key}, '
                f'but found {number:,}.'
            )
        expected = self.layout.get('annotated', {}).get(key, used)
        if used not in (number, expected):
            self.report.warnings.append(
                f'Expected {expected:,} of the images to have annotations, '
                f'but {used:,} have.'
            )

    def check_files(self, listed: list[dict]) -> list[dict]:
        """The entries whose files are all there."""
        names = {'img_path': 'images', 'seg_map_path': 'label maps'}
        for key, what in names.items():
            files = [info[key] for info in listed if info.get(key)]
            missing = [file for file in files if not osp.isfile(file)]
            if missing:
                self.expect(
                    f'the {what} of all {len(files):,} entries of {self.list}',
                    f'{len(missing):,} are missing: {_some(missing)}; '
                    f'{_nearest(missing[0])}',
                    self.hint(missing[0]),
                )
        if not self.ann_file and 'seg_map_path' in self.folders:
            self.check_left_over(listed)
        return [
            info
            for info in listed
            if all(osp.isfile(info[key]) for key in names if info.get(key))
        ]

    def check_left_over(self, listed: list[dict]) -> None:
        """Where no file lists them, label maps without an image mean that
        images are missing."""
        folder = self.folders['seg_map_path']
        suffix = self.dataset.seg_map_suffix
        found = list_dir_or_file(folder, False, True, suffix, recursive=True)
        used = {osp.normpath(info['seg_map_path']) for info in listed}
        left = {osp.join(folder, name) for name in found} - used
        if left:
            images = self.folders['img_path']
            self.expect(
                f'an image in {images} for each label map',
                f'{len(left):,} have none: {_some(sorted(left))}',
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
        size = self.read(file, lambda: _image_size(file))
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
        labels = self.read(file, lambda: loads[0](dict(info))['gt_seg_map'])
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

    def read(self, file: str, how: Callable[[], Any]) -> Any:
        """Call ``how``, which reads a file; a ValueError if it cannot."""
        try:
            return how()
        except Exception as error:
            raise ValueError(
                f'Expected {file} to be readable, but it is not: '
                f'{_reason(error)} ({osp.getsize(file):,} bytes). Get it '
                f'again. {self.hint(file)}'
            ) from error


def _datasets(cfg: Config) -> list[tuple[str, dict]]:
    """Splits and configs of the data sets, taken out of their wrappers."""

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


def _evaluators(cfg: Config) -> Iterator[dict]:
    """The evaluators that read an annotation file of their own."""
    for split in SPLITS:
        evaluators = cfg.get(f'{split}_evaluator') or []
        if not isinstance(evaluators, list):
            evaluators = [evaluators]
        yield from (each for each in evaluators if each.get('ann_file'))


def _nearest(path: str) -> str:
    """The last folder on a path that exists, and what is in it."""
    while path and not osp.isdir(path):
        path = osp.dirname(path)
    path = path or os.getcwd()
    _, folders, files = next(os.walk(path), ('', [], []))
    names = [f'{name}/' for name in sorted(folders)] + sorted(files)
    return f'{path} holds {_some(names)}' if names else f'{path} is empty'


def _some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    first, more = names[:_MAX_NAMES], len(names[_MAX_NAMES:])
    return ', '.join(first) + (f' and {more:,} more' if more else '')


def _image_size(file: str) -> tuple[int, int]:
    """Height and width of an image as OpenCV turns it, all of it decoded:
    OpenCV fills up in gray what is cut off."""
    with Image.open(file) as image:
        image.load()
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.rstrip('.')
