# New: upstream has FPN, but of no EfficientNet-Lite.
_base_ = [
    '../../_base_/models/fpn_efficientnet-lite0.py',
    'mmseg::_base_/datasets/pascal_voc12_aug.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_40k.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor, decode_head=dict(num_classes=21)
)
