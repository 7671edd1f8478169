# Derived: upstream has Mask R-CNN with ResNet-18 for large-scale jitter over
# 200 epochs only.
_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py',
    '../../_base_/distill_runtime.py',
]

val_evaluator = dict(type='CocoBoundaryMetric')
test_evaluator = val_evaluator

model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
