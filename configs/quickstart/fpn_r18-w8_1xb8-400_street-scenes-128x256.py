# The student alone: ResNet-18 of an eighth of the width.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/datasets/street_scenes.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/distill_runtime.py',
    '../_base_/schedules/schedule_1k_bf16.py',
]

data_preprocessor = dict(size=(128, 256))
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(depth=18, base_channels=8, norm_cfg=norm_cfg),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    decode_head=dict(
        in_channels=[32, 32, 32, 32],
        channels=16,
        num_classes=11,
        norm_cfg=norm_cfg,
    ),
)

optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 400
train_cfg = dict(max_iters=400, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
