# The student alone, from ImageNet weights.
_base_ = [
    '../../_base_/models/fpn_efficientnet-lite0.py',
    '../../_base_/datasets/camvid_360x270.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/schedule_1k_pretrained.py',
]

data_preprocessor = dict(size=(180, 240))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        num_classes=11,
        loss_decode=dict(
            _delete_=True,
            type='WeightedCrossEntropyLoss',
            class_weight={{_base_.class_weight}},
        ),
    ),
)

param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 500
train_cfg = dict(max_iters=500, val_interval=500)
