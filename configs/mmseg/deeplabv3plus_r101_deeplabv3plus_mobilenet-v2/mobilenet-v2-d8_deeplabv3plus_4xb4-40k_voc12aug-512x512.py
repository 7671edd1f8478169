# Derived: upstream has this student on Cityscapes and ADE20K, but not on VOC.
_base_ = [
    'mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb4-40k_voc12aug-512x512.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
    '../../_base_/models/mobilenet-v2-d8.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

model = {{_base_.mobilenet_v2_d8}}
