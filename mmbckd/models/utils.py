"""Models as their own configs describe them."""

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmrazor.registry import MODELS
from torch import nn


def build_model(
    model: dict | str | BaseModel,
    data_preprocessor: dict | None = None,
) -> BaseModel:
    """Build a student or teacher as its own config's runner would.

    Args:
        model (dict | str | BaseModel): Its config, the path of a config file
            that has it under ``model``, or the model itself.
        data_preprocessor (dict | None): For a config that has none.
            Defaults to None.

    Returns:
        BaseModel: The model.

    Raises:
        ValueError: If the config file has no ``model``.
    """
    if isinstance(model, str):
        cfg = get_config(model) if '::' in model else Config.fromfile(model)
        if 'model' not in cfg:
            raise ValueError(
                f'The config {model} has no `model`. Name a '
                'config that can be trained on its own.'
            )
        model = cfg.model
        model.setdefault('_scope_', cfg.get('default_scope', 'mmengine'))
        # As the runners of MMDetection and MMSegmentation do.
        if 'data_preprocessor' in cfg:
            model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if isinstance(model, dict):
        if data_preprocessor is not None and 'type' in model:
            model = {'data_preprocessor': data_preprocessor, **model}
        model = MODELS.build(model)
    return model


def num_classes_of(model: nn.Module) -> int | None:
    """Number of classes that a segmentor or detector predicts.

    Args:
        model (nn.Module): A model of mmseg or mmdet.

    Returns:
        int | None: None if it does not say.
    """
    for name in (
        'decode_head',
        'roi_head.bbox_head',
        'bbox_head',
        'mask_head',
        'panoptic_head',
    ):
        head: nn.Module | None = model
        for part in name.split('.'):
            head = getattr(head, part, None)
        if isinstance(head, nn.ModuleList):
            head = head[-1]
        num_classes = getattr(head, 'num_classes', None)
        if isinstance(num_classes, int):
            return num_classes
    return None
