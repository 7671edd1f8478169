"""What the models of runs predict for validation images."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement
from mmseg.models import BaseSegmentor
from numpy import ndarray

from ..engine.hooks.student_checkpoint_hook import student_checkpoint_path
from ..models import utils
from .runs import Run, check_same_data, read_run, run_titles


class LabelMaps(NamedTuple):
    """The label maps of an image, in the size of its file.

    Attributes:
        file (str): The image.
        truth (ndarray): Its true classes, (H, W).
        predictions (list[ndarray]): What each run predicts, (H, W).
    """

    file: str
    truth: ndarray
    predictions: list[ndarray]


def build_student(run: Run, device: str) -> BaseSegmentor | None:
    """Build the trained model of a run, of a distillation only its student.

    Args:
        run (Run): A run with a checkpoint.
        device (str): Where to put it.

    Returns:
        BaseSegmentor, optional: The model in eval mode, None if it is not for
        semantic segmentation.

    Raises:
        ValueError: If the checkpoint does not hold all of this model.
    """
    model = utils.build_student(run.config)
    if not isinstance(model, BaseSegmentor):
        return None
    checkpoint = str(run.checkpoint)
    plain = student_checkpoint_path(checkpoint)
    if run.distills and Path(plain).is_file():
        checkpoint = plain
    try:
        utils.load_student(model, checkpoint, distilled=run.distills)
    except ValueError as error:
        raise ValueError(
            f'The checkpoint {run.checkpoint} cannot be loaded into the model '
            f'in the config of {run.name}: {error}'
        ) from None
    return model.to(device).eval()


def predictor_parser(description: str) -> argparse.ArgumentParser:
    """A command's parser with the arguments of :func:`read_predictor`.

    Args:
        description (str): What the command does.

    Returns:
        ArgumentParser: With ``--out`` for a JSON file as well.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('paths', nargs='+', metavar='RUN')
    parser.add_argument('--names', nargs='+', help='titles of the runs')
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        help='a checkpoint for each run (default: the last one found)',
    )
    parser.add_argument(
        '--device', help='where to run the models (default: a GPU if any)'
    )
    parser.add_argument('--out', help='JSON file to write')
    return parser


def read_predictor(
    paths: Sequence[str],
    names: Sequence[str] | None = None,
    checkpoints: Sequence[str] | None = None,
    device: str | None = None,
) -> Predictor:
    """Read runs for semantic segmentation, to predict with their models.

    Args:
        paths (Sequence[str]): The runs, see :func:`~.runs.read_run`.
        names (Sequence[str], optional): A title for each. Defaults to None:
            shortened names of the work directories.
        checkpoints (Sequence[str], optional): A checkpoint for each, instead
            of those that are found. Defaults to None.
        device (str, optional): Where the models are run. Defaults to None: a
            GPU if there is one.

    Returns:
        Predictor: Of all runs.

    Raises:
        FileNotFoundError: If a run, its checkpoint or its validation data is
            not there.
        ValueError: If there are not as many names or checkpoints as runs, a
            run is not for semantic segmentation, or the runs were not
            validated on the same data.
    """
    names = run_titles(paths, names)
    checkpoints = checkpoints or [None] * len(paths)
    if len(checkpoints) != len(paths):
        raise ValueError(
            f'Expected {len(paths)} checkpoints, one for each run, but got '
            f'{list(checkpoints)}.'
        )
    runs = [read_run(*found) for found in zip(paths, names, checkpoints)]
    check_same_data(runs)
    models = []
    for run in runs:
        if run.checkpoint is None:
            raise FileNotFoundError(
                f'Expected a checkpoint of {run.name}, but {run.path} has '
                'none. Name one for each run by --checkpoints.'
            )
        models.append(build_student(run, device or get_device()))
        if models[-1] is None:
            raise ValueError(
                f'Expected runs for semantic segmentation, but {run.name} is '
                f'a {run.config.model.type}. Leave it out.'
            )
    return Predictor(runs, models)


def build_dataset(run: Run) -> BaseDataset:
    """Build the validation data of a run.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If the config has none.
    """
    dataset = (run.config.get('val_dataloader') or {}).get('dataset')
    if dataset is None:
        raise ValueError(
            'Expected a `val_dataloader` in the config of '
            f'{run.name}, but there is none. Add the one that it was '
            'validated with.'
        )
    try:
        with DefaultScope.overwrite_default_scope(
            run.config.get('default_scope', 'mmengine')
        ):
            return DATASETS.build(dataset)
    # VOC and some others of mmseg assert that their files are there.
    except (AssertionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f'The validation data of {run.name} is not where its config says '
            f'({error or dataset.get("ann_file")}). Run this where the '
            'training was run.'
        ) from None


class Predictor:
    """Predicts images with the models of several runs.

    Every model sees them as the validation pipeline of its own run gives
    them.

    Args:
        runs (list[Run]): The runs, validated on the same images.
        models (list[BaseSegmentor]): Their models, in eval mode.

    Raises:
        FileNotFoundError: If the validation data of a run is not there.
        ValueError: If a run has no validation data, or not as many images of
            it as the first.
    """

    def __init__(self, runs: list[Run], models: list[BaseSegmentor]) -> None:
        self.runs, self.models = runs, models
        self.datasets = [build_dataset(run) for run in runs]
        for run, dataset in zip(runs, self.datasets):
            self._check_same('as many', len(self), run, len(dataset))
        metainfo = self.datasets[0].metainfo
        self.classes, self.palette = metainfo['classes'], metainfo['palette']
        self.ignore_index = getattr(self.datasets[0], 'ignore_index', 255)

    def __len__(self) -> int:
        return len(self.datasets[0])

    @torch.no_grad()
    def predict(self, index: int) -> LabelMaps:
        """Predict an image.

        Args:
            index (int): Its index in the data sets.

        Returns:
            LabelMaps: Truth and predictions.

        Raises:
            ValueError: If no data set gives the truth, or if the runs have
                different images there.
        """
        samples, predictions = [], []
        for run, dataset, model in zip(self.runs, self.datasets, self.models):
            data = dataset[index]
            sample = data['data_samples']
            samples.append(sample)
            self._check_same('the same', _name(samples[0]), run, _name(sample))
            # A model writes into what it is given.
            (result,) = model.test_step(pseudo_collate([copy.deepcopy(data)]))
            predictions.append(result.pred_sem_seg.data[0].cpu().numpy())
        size = samples[0].ori_shape
        return LabelMaps(
            samples[0].img_path,
            _truth(samples, size),
            [_resized(labels, size) for labels in predictions],
        )

    def _check_same(
        self, what: str, first: object, run: Run, value: object
    ) -> None:
        if value != first:
            raise ValueError(
                f'Expected {what} validation images in all runs, but got '
                f'{first} in {self.runs[0].name} and {value} in {run.name}. '
                'Compare them separately.'
            )


def _name(sample: BaseDataElement) -> str:
    return Path(sample.img_path).name


def _truth(samples: list[BaseDataElement], size: tuple[int, int]) -> ndarray:
    """The truth of an image, if possible one that was not resized."""
    found = [
        sample.gt_sem_seg.data[0].numpy()
        for sample in samples
        if 'gt_sem_seg' in sample
    ]
    if not found:
        raise ValueError(
            'Expected validation data with truth, but the pipeline of no '
            "run's `val_dataloader` gives gt_sem_seg. Add "
            "dict(type='LoadAnnotations') to one."
        )
    found.sort(key=lambda labels: labels.shape != size)
    return _resized(found[0], size)


def _resized(labels: ndarray, size: tuple[int, int]) -> ndarray:
    """A label map in another size, by its nearest pixels."""
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, labels.shape)
    )
    return labels[np.ix_(rows, columns)]
