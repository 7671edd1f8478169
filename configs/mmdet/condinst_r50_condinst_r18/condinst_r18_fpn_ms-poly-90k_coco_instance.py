# Derived: upstream has CondInst with ResNet-50 only.
_base_ = [
    'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
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
