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

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(
        type='PolyLR',
        eta_min=1e-5,
        power=0.9,
        begin=50,
        end=500,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=500, val_interval=500)
