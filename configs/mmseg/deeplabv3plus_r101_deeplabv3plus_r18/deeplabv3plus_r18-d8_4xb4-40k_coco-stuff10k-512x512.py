# Derived: upstream has DeepLabV3+-R18 on Cityscapes, but not on
# COCO-Stuff 10K.
_base_ = [
    './deeplabv3plus_r101-d8_4xb4-40k_coco-stuff10k-512x512.py',
    '../../_base_/models/r18-d8.py',
]

model = {{_base_.deeplabv3plus_r18_d8}}
