# Derived: upstream has PSPNet-R18 on Cityscapes, but not on ADE20K.
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
    '../../_base_/models/r18-d8.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

model = {{_base_.r18_d8}}
