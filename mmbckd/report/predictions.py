"""What the models of runs predict for validation images."""
from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import load_checkpoint
from mmseg.models import BaseSegmentor
from numpy import ndarray

from ..engine.hooks.student_checkpoint_hook import (export_student_checkpoint,
                                                    student_checkpoint_path)
from ..models.algorithms.frozen_teacher_distill import build_model
from .runs import Run


class LabelMaps(NamedTuple):
    """The label maps of an image.

    Attributes:
        file (str): The image.
        truth (ndarray): Its true classes, (H, W).
        predictions (list[ndarray]): What each model predicts, (H, W).
    """
    file: str
    truth: ndarray
    predictions: list[ndarray]


def build_student(run: Run, device: str) -> BaseSegmentor | None:
    """Build the trained model of a run; of a distillation its student only.

    Args:
        run (Run): A run with a checkpoint.
        device (str): Where to put it.

    Returns:
        BaseSegmentor, optional: The model in eval mode, None if it is not for
        semantic segmentation.

    Raises:
        ValueError: If the checkpoint is no whole one of this config.
    """
    config = run.config
    model = copy.deepcopy(
        config.model['architecture'] if run.distils else config.model)
    with DefaultScope.overwrite_default_scope(
            config.get('default_scope', 'mmengine')):
        model = build_model(model, config.get('data_preprocessor'))
    if not isinstance(model, BaseSegmentor):
        return None
    checkpoint = str(run.checkpoint)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if run.distils:
                plain = student_checkpoint_path(checkpoint)
                checkpoint = plain if Path(plain).is_file() else \
                    export_student_checkpoint(checkpoint,
                                              f'{folder}/student.pth')
            load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f'The checkpoint {run.checkpoint} cannot be loaded into the model '
            f'in the config of {run.name}: {error}. Put the config and the '
            'whole checkpoint of one training together, or leave the images '
            'out by --no-images (draw_images=False).') from None
    return model.to(device).eval()


def build_dataset(run: Run) -> BaseDataset:
    """Build the validation data of a run.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If the config has none.
    """
    dataset = (run.config.get('val_dataloader') or {}).get('dataset')
    if dataset is None:
        raise ValueError(
            'Expected a `val_dataloader` in the config of the first run, '
            f'{run.name}, but there is none. Name a run first that has one, '
            'or leave the images out by --no-images (draw_images=False).')
    try:
        with DefaultScope.overwrite_default_scope(
                run.config.get('default_scope', 'mmengine')):
            return DATASETS.build(dataset)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'The validation data of {run.name} is not where its config says '
            f'({error}). Run this where the training was run, or leave the '
            'images out by --no-images (draw_images=False).') from None


class Predictor:
    """Predicts images of a data set with several models.

    Args:
        dataset (BaseDataset): Validation data with truth.
        models (list[BaseSegmentor]): The models, in eval mode.
    """

    def __init__(self, dataset: BaseDataset,
                 models: list[BaseSegmentor]) -> None:
        self.dataset, self.models = dataset, models
        self.classes = dataset.metainfo['classes']
        self.palette = dataset.metainfo['palette']
        self.ignore_index = getattr(dataset, 'ignore_index', 255)

    @torch.no_grad()
    def predict(self, index: int) -> LabelMaps:
        """Predict an image.

        Args:
            index (int): Its index in the data set.

        Returns:
            LabelMaps: Truth and predictions.

        Raises:
            ValueError: If the data set gives no truth.
        """
        data = self.dataset[index]
        sample = data['data_samples']
        if 'gt_sem_seg' not in sample:
            raise ValueError(
                'Expected validation data with truth, but the pipeline of the '
                "first run's `val_dataloader` gives no gt_sem_seg. Add "
                "dict(type='LoadAnnotations') to it.")
        predictions = []
        for model in self.models:
            # A model writes into what it is given.
            batch = pseudo_collate([copy.deepcopy(data)])
            result, = model.test_step(batch)
            predictions.append(result.pred_sem_seg.data[0].cpu().numpy())
        return LabelMaps(sample.img_path, sample.gt_sem_seg.data[0].numpy(),
                         predictions)
