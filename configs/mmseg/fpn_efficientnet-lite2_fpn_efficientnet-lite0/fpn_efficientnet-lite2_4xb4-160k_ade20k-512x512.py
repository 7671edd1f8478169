# New: the teacher.
_base_ = [
    './fpn_efficientnet-lite0_4xb4-160k_ade20k-512x512.py',
    '../../_base_/models/fpn_efficientnet-lite2.py',
]

model = {{_base_.fpn_efficientnet_lite2}}
