# The student alone: ResNet-18 of half the width (32 instead of 64 channels in
# its first stage), trained from scratch.
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
    backbone=dict(depth=18, base_channels=32, norm_cfg=norm_cfg),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=32,
        num_classes=11,
        norm_cfg=norm_cfg,
    ),
)

train_cfg = dict(val_interval=500)
