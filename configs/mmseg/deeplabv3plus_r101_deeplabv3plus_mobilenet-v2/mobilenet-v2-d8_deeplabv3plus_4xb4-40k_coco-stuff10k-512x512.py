# Derived: upstream has this student on Cityscapes and ADE20K, but not on
# COCO-Stuff 10K.
_base_ = [
    '../deeplabv3plus_r101_deeplabv3plus_r18/deeplabv3plus_r101-d8_4xb4-40k_coco-stuff10k-512x512.py',
    '../../_base_/models/mobilenet-v2-d8.py',
]

model = {{_base_.mobilenet_v2_d8}}
