# Derived: upstream has DeepLabV3+ on other data, but not on COCO-Stuff 10K.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    'mmseg::_base_/datasets/coco-stuff10k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_40k.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(num_classes=171),
    auxiliary_head=dict(num_classes=171),
)
