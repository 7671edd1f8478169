"""Small detectors and batches that the tests share."""

from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData

from tests.segmentors import query_segmentor

NUM_CLASSES = 5
MODELS = Path(__file__).parents[1] / 'configs/_base_/models'


def detector(base_channels=8, num_classes=NUM_CLASSES):
    """A RetinaNet with ResNet-18: features of strides 4 to 32, levels of 8 to
    32."""
    return dict(
        type='RetinaNet',
        _scope_='mmdet',
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_mask=True, pad_size_divisor=32
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=base_channels,
            norm_cfg=dict(type='BN'),
        ),
        neck=dict(
            type='FPN',
            in_channels=[base_channels * 2**i for i in range(4)],
            out_channels=16,
            start_level=1,
            num_outs=3,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=num_classes,
            in_channels=16,
            stacked_convs=1,
            feat_channels=16,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[4],
                ratios=[1.0],
                strides=[8, 16, 32],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        ),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                ignore_iof_thr=-1,
            ),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=100,
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=10,
        ),
    )


def mask_detector(num_classes=NUM_CLASSES):
    """A Mask R-CNN with ResNet-18: features of strides 4 to 32, levels of 4 to
    64."""
    model = Config.fromfile(MODELS / 'mask-rcnn_r18-w16_fpn.py').model
    model.roi_head.bbox_head.num_classes = num_classes
    model.roi_head.mask_head.num_classes = num_classes
    return ConfigDict(model, _scope_='mmdet')


def query_detector(num_classes=NUM_CLASSES, num_queries=7):
    """A Mask2Former of instances: masks of stride 4."""
    model = query_segmentor(num_classes, num_queries)
    head = model.decode_head
    for key in ('num_classes', 'align_corners'):
        del head[key]
    classes = dict(num_things_classes=num_classes, num_stuff_classes=0)
    return ConfigDict(
        type='Mask2Former',
        _scope_='mmdet',
        data_preprocessor=detector()['data_preprocessor'],
        backbone=dict(model.backbone, type='ResNet'),
        panoptic_head=dict(head, **classes),
        panoptic_fusion_head=dict(type='MaskFormerFusionHead', **classes),
        test_cfg=dict(panoptic_on=False, instance_on=True),
    )


def sample(masks, labels=None, shape=None, ignored=()):
    """A data sample of instances, and of instances to ignore, given as
    masks."""
    shape = tuple(shape or masks[0].shape)
    data_sample = DetDataSample(
        metainfo=dict(
            img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)
        )
    )
    for name, group in (
        ('gt_instances', masks),
        ('ignored_instances', ignored),
    ):
        bitmaps = BitmapMasks([np.asarray(m, np.uint8) for m in group], *shape)
        data_sample.set_data(
            {
                name: InstanceData(
                    masks=bitmaps,
                    bboxes=bitmaps.get_bboxes('hbox').tensor,
                    labels=torch.tensor(
                        labels
                        if labels is not None and name == 'gt_instances'
                        else [0] * len(group),
                        dtype=torch.long,
                    ),
                )
            }
        )
    return data_sample


def rectangle(shape, top, left, bottom, right):
    """A mask that is one rectangle."""
    mask = np.zeros(shape, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask
