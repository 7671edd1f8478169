# New: the teacher.
_base_ = [
    './fpn_efficientnet-lite0_4xb2-80k_cityscapes-512x1024.py',
    '../../_base_/models/fpn_efficientnet-lite2.py',
]

model = {{_base_.fpn_efficientnet_lite2}}
