# The teacher, from ImageNet weights.
_base_ = [
    './fpn_efficientnet-lite0_1xb8-1k_camvid-240x320.py',
    '../../_base_/models/fpn_efficientnet-lite2.py',
]

model = {{_base_.fpn_efficientnet_lite2}}

train_cfg = dict(val_interval=500)
