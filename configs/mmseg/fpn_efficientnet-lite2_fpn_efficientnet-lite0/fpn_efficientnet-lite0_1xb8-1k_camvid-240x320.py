# The student alone at full size.
_base_ = [
    '../../_base_/models/fpn_efficientnet-lite0.py',
    '../../_base_/datasets/camvid_480x360.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/schedule_1k_pretrained.py',
]

data_preprocessor = dict(size=(240, 320))
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

train_cfg = dict(val_interval=1000)
