"""Models as their own configs describe them."""

import copy
from pickle import UnpicklingError

from mmdet.models.dense_heads import RPNHead
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader, load_state_dict
from mmrazor.registry import MODELS
from torch import nn

#: Where a distillation, and its checkpoint, has the student.
STUDENT = 'architecture'


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
        model = read_model(model)
    if isinstance(model, dict):
        if data_preprocessor is not None and 'type' in model:
            model = {'data_preprocessor': data_preprocessor, **model}
        model = MODELS.build(model)
    return model


def read_model(path: str) -> dict:
    """The model of a config file, as its own runner would build it.

    Args:
        path (str): A file, or a name such as ``'mmseg::pspnet/…'``.

    Returns:
        dict: Its config, with its scope and data preprocessor.

    Raises:
        ValueError: If the config file has no ``model``.
    """
    cfg = get_config(path) if '::' in path else Config.fromfile(path)
    if 'model' not in cfg:
        raise ValueError(
            f'The config {path} has no `model`. Name a '
            'config that can be trained on its own.'
        )
    model = cfg.model
    model.setdefault('_scope_', cfg.get('default_scope', 'mmengine'))
    # As the runners of MMDetection and MMSegmentation do.
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return model


def type_name(node: dict) -> str:
    """The ``type`` of a node as text, '' if there is none.

    Pure Python configs have classes there.
    """
    kind = node.get('type', '')
    return getattr(kind, '__name__', str(kind))


def is_distillation(config: Config) -> bool:
    """Whether a config trains a student that is only part of its model."""
    model = config.get('model') or {}
    kinds = ('Distill', 'QuantizationAwareTraining')
    return type_name(model).endswith(kinds) and STUDENT in model


def student_config(config: Config) -> dict:
    """The ``model`` of a config; of a distillation its student's."""
    if not config.get('model'):
        raise ValueError(
            'Expected a config with a `model`, but it has none. Name a '
            'config that can be trained on its own.'
        )
    model = config.model[STUDENT] if is_distillation(config) else config.model
    return (
        read_model(model) if isinstance(model, str) else copy.deepcopy(model)
    )


def build_student(config: Config) -> BaseModel:
    """Build the model of a config, of a distillation only its student.

    Args:
        config (Config): The config of a student, or of a distillation.

    Returns:
        BaseModel: The model, not trained.

    Raises:
        ValueError: If the config has no ``model``.
    """
    with DefaultScope.overwrite_default_scope(
        config.get('default_scope', 'mmengine')
    ):
        return build_model(
            student_config(config), config.get('data_preprocessor')
        )


def student_weights(state_dict: dict) -> dict:
    """The student's weights in those of a distillation, by its own names.

    Args:
        state_dict (dict): The weights of any model.

    Returns:
        dict: Empty if there is no student in it.
    """
    prefix = f'{STUDENT}.'
    return {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }


def load_student(
    model: BaseModel, checkpoint: str, distilled: bool = True
) -> None:
    """Load all weights of a model, out of a distillation if need be.

    Args:
        model (BaseModel): The model, see :func:`build_student`.
        checkpoint (str): A checkpoint of it, or of a distillation of which it
            is the student.
        distilled (bool): Whether that of a distillation is accepted. Defaults
            to True.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint is of another model, or unreadable.
    """
    try:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    except UnpicklingError as error:
        raise ValueError(str(error)) from None
    weights = loaded.get('state_dict', loaded)
    of_student = student_weights(weights) if distilled else {}
    try:
        load_state_dict(model, of_student or weights, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f'Expected a checkpoint of the model in this config, but '
            f'{checkpoint} is of another: {error}. Name the config and the '
            'checkpoint of one training.'
        ) from None


def num_classes_of(model: nn.Module) -> int | None:
    """Number of classes that a segmentor or detector predicts.

    Args:
        model (nn.Module): A model of mmseg or mmdet.

    Returns:
        int | None: None if it does not say, or finds objects of any class.
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
        if isinstance(num_classes, int) and not isinstance(head, RPNHead):
            return num_classes
    return None


def batch_of_call(args: tuple, kwargs: dict) -> dict:
    """What a forward hook of a model sees it called with, by name.

    Args:
        args (tuple): The positional arguments of the call.
        kwargs (dict): The others.

    Returns:
        dict: ``inputs`` and, if given, ``data_samples``.
    """
    return dict(zip(('inputs', 'data_samples'), args), **kwargs)
