"""Teachers that never saw the classes: a backbone alone, tokens as maps."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS, TASK_UTILS

from tests.config_walk import ROOT
from tests.segmentors import batch, cnn_segmentor
from tests.test_models.test_bckd_distiller import CONV_SEG_INPUT, build, step

PATCH = 16


def vit(**kwargs):
    """mmseg's ViT of three blocks; its tokens begin with that of the class."""
    return dict(
        type='mmrazor.FeatureExtractor',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
        backbone=dict(
            type='mmseg.VisionTransformer',
            img_size=(64, 64),
            patch_size=PATCH,
            embed_dims=8,
            num_layers=3,
            num_heads=2,
            out_indices=(1, 2),
            final_norm=False,
            **kwargs,
        ),
    )


def tokens(block, **kwargs):
    source = f'backbone.layers.{block}'
    return dict(type='ModuleTokens', source=source, **kwargs)


def recorded(model, config, images):
    config = dict(config, type=f'mmrazor.{config["type"]}Recorder')
    recorder = TASK_UTILS.build(config)
    recorder.initialize(model)
    with recorder, torch.no_grad():
        out = model(images)
    return recorder.get_record_data(), out


def by_hand(sequence, prefix, height, width):
    """The map of a sequence, one token after the other."""
    found = torch.empty(len(sequence), sequence.shape[2], height, width)
    for n, image in enumerate(sequence):
        for row in range(height):
            for column in range(width):
                token = image[prefix + row * width + column]
                found[n, :, row, column] = token
    return found


@pytest.mark.parametrize('size', [(48, 80), (41, 72)])
def test_tokens_become_the_map_that_the_backbone_makes_of_them(size):
    """Also of an input that the last patches are padded for."""
    model = MODELS.build(vit()).eval()
    images = torch.randn(2, 3, *size)
    found, out = recorded(model, tokens(2), images)
    assert found.shape == (2, 8, 3, 5)
    assert torch.equal(found, out[1])
    sequence, _ = recorded(
        model, dict(type='ModuleOutputs', source='backbone.layers.0'), images
    )
    found, _ = recorded(model, tokens(0), images)
    assert torch.equal(found, by_hand(sequence, 1, 3, 5))


@pytest.mark.parametrize('prefix', [1, 5])
def test_class_and_register_tokens_of_timm_are_left_out(prefix):
    pytest.importorskip('timm')
    backbone = dict(
        type='mmseg.TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        pretrained=False,
        features_only=True,
        out_indices=(1,),
        depth=2,
        embed_dim=24,
        reg_tokens=prefix - 1,
        dynamic_img_size=True,
    )
    model = MODELS.build(dict(vit(), backbone=backbone)).eval()
    source = 'backbone.timm_model.model.blocks.1'
    config = dict(type='ModuleTokens', source=source, num_prefix=prefix)
    found, out = recorded(model, config, torch.randn(2, 3, 32, 64))
    assert torch.equal(found, out[0])


@pytest.mark.parametrize(
    'kwargs, expected, grid',
    [
        (dict(num_prefix=0), 12, '3 x 4'),
        (dict(patch_size=8), 49, '6 x 8'),
        (dict(num_prefix=5), 17, '3 x 4'),
    ],
)
def test_tokens_that_do_not_fit_the_grid_are_refused(kwargs, expected, grid):
    model = MODELS.build(vit()).eval()
    with pytest.raises(
        ValueError,
        match=rf'\(N, {expected}, C\), .*{grid} patches.*48x64.*\(2, 13, 8\)',
    ):
        recorded(model, tokens(1, **kwargs), torch.randn(2, 3, 48, 64))


def test_what_is_no_sequence_of_tokens_is_refused():
    model = MODELS.build(vit()).eval()
    images = torch.randn(2, 3, 48, 64)
    config = dict(type='ModuleTokens', source='backbone')
    with pytest.raises(ValueError, match=r"got tuple.*'ModuleOutputs'"):
        recorded(model, config, images)


def test_backbone_alone_teaches_both_terms():
    """Not as many classes as the student has are its, but none."""
    source = tokens(1, patch_size=PATCH)
    model = build(
        student=cnn_segmentor(num_classes=5),
        teacher=vit(),
        boundary=dict(student='backbone', teacher=source, source='feature'),
        context=dict(student=CONV_SEG_INPUT, teacher=source),
    )
    assert model.teacher_forward == 'extract_feat'
    before = copy.deepcopy(model.teacher.state_dict())
    losses = step(model)
    for name in ('distill.loss_bd', 'distill.loss_cd'):
        assert losses[name] > 0 and losses[name].isfinite()
    gradient = model.student.backbone.stem[0].weight.grad
    assert gradient.isfinite().all() and gradient.any()
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_dinov2_gives_one_map_of_stride_14_and_rounds_up(
    without_needless_work,
):
    pytest.importorskip('timm')
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/dinov2_vit-b14.py')
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        (found,) = model.extract_feat(torch.randn(1, 3, 64, 128))
    assert found.shape == (1, 768, 5, 10)


def test_backbone_alone_is_not_asked_for_a_loss():
    with pytest.raises(ValueError, match="mode='tensor', but got 'loss'"):
        MODELS.build(vit())(*batch(), mode='loss')
