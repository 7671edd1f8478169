# The teacher, trained from scratch.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../../_base_/datasets/camvid.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/schedules/schedule_1k_bf16.py',
]

data_preprocessor = dict(size=(120, 160))
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(out_channels=128),
    decode_head=dict(
        in_channels=[128, 128, 128, 128],
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
    ),
)

param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 1500
train_cfg = dict(max_iters=1500, val_interval=500)
