"""Small segmentors and batches that the tests share."""

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

NUM_CLASSES = 5


def _segmentor(backbone, decode_head, dropout=0.1, **kwargs):
    head = dict(
        dropout_ratio=dropout,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
        **decode_head,
    )
    return dict(
        type='EncoderDecoder',
        _scope_='mmseg',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
        backbone=backbone,
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        **kwargs,
    )


def with_grouped_deconvolution(model):
    """A classifier that upsamples by a transposed convolution of 2 groups."""
    classify = model.decode_head.conv_seg
    model.decode_head.conv_seg = nn.Sequential(
        nn.ConvTranspose2d(classify.in_channels, 6, 2, 2, groups=2),
        nn.Conv2d(6, classify.out_channels, 1),
    )
    return model.eval()


def _resnet18(base_channels, out_indices, **kwargs):
    return dict(
        type='ResNetV1c',
        depth=18,
        base_channels=base_channels,
        out_indices=out_indices,
        norm_cfg=dict(type='BN'),
        **kwargs,
    )


def cnn_segmentor(base_channels=8, num_classes=NUM_CLASSES, dropout=0.1):
    """A ResNet-18 with an FPN: features of strides 4 to 32, logits of 4."""
    return _segmentor(
        _resnet18(base_channels, out_indices=(0, 1, 2, 3)),
        dict(
            type='FPNHead',
            in_channels=[16] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=8,
            num_classes=num_classes,
        ),
        dropout,
        neck=dict(
            type='FPN',
            in_channels=[base_channels * 2**i for i in range(4)],
            out_channels=16,
            num_outs=4,
        ),
    )


def transformer_segmentor(num_classes=NUM_CLASSES):
    """A SegFormer of another width, with stochastic depth."""
    return _segmentor(
        dict(
            type='MixVisionTransformer',
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 2, 5, 8],
            drop_path_rate=0.5,
        ),
        dict(
            type='SegformerHead',
            in_channels=[8, 16, 40, 64],
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=num_classes,
        ),
    )


def dilated_segmentor(num_classes=NUM_CLASSES):
    """A ResNet-18-D8 with one feature map: logits of stride 8."""
    return _segmentor(
        _resnet18(
            8,
            out_indices=(3,),
            strides=(1, 2, 1, 1),
            dilations=(1, 1, 2, 4),
        ),
        dict(
            type='FCNHead',
            in_channels=64,
            in_index=0,
            channels=8,
            num_convs=1,
            concat_input=False,
            num_classes=num_classes,
        ),
    )


def query_segmentor(num_classes=NUM_CLASSES, num_queries=7):
    """A Mask2Former: masks of stride 4."""
    attention = dict(embed_dims=16, num_heads=2, batch_first=True)
    positions = dict(num_feats=8, normalize=True)
    model = _segmentor(
        _resnet18(8, out_indices=(0, 1, 2, 3)),
        dict(
            type='Mask2FormerHead',
            in_channels=[8, 16, 32, 64],
            strides=[4, 8, 16, 32],
            feat_channels=16,
            out_channels=16,
            num_classes=num_classes,
            num_queries=num_queries,
            pixel_decoder=dict(
                type='mmdet.MSDeformAttnPixelDecoder',
                norm_cfg=dict(type='GN', num_groups=4),
                encoder=dict(
                    num_layers=1,
                    layer_cfg=dict(
                        self_attn_cfg=dict(**attention, num_levels=3),
                        ffn_cfg=dict(embed_dims=16, feedforward_channels=32),
                    ),
                ),
                positional_encoding=positions,
            ),
            positional_encoding=positions,
            transformer_decoder=dict(
                return_intermediate=True,
                num_layers=2,
                layer_cfg=dict(
                    self_attn_cfg=attention,
                    cross_attn_cfg=attention,
                    ffn_cfg=dict(embed_dims=16, feedforward_channels=32),
                ),
            ),
            loss_cls=dict(
                type='mmdet.CrossEntropyLoss',
                class_weight=[1.0] * num_classes + [0.1],
            ),
        ),
    )
    for key in ('dropout_ratio', 'norm_cfg', 'loss_decode'):
        del model['decode_head'][key]
    return ConfigDict(model)


def batch(size=2, side=64, num_classes=NUM_CLASSES):
    """Preprocessed images and data samples."""
    images = torch.randn(size, 3, side, side)
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(
                data=torch.randint(0, num_classes, (1, side, side))
            ),
            metainfo=dict(
                img_shape=(side, side),
                ori_shape=(side, side),
                pad_shape=(side, side),
            ),
        )
        for _ in range(size)
    ]
    return images, samples
