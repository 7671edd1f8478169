# The student alone, from random weights.
_base_ = [
    '../../_base_/models/ddrnet_23-slim.py',
    '../../_base_/datasets/camvid_480x360.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/schedule_1k_pretrained.py',
]

data_preprocessor = dict(size=(240, 320))
# Of the whole batch, as many pixels in a thousand as upstream at least.
ohem = dict(
    type='OhemCrossEntropy',
    thres=0.9,
    min_kept=12800,
    class_weight={{_base_.class_weight}},
)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        num_classes=11,
        loss_decode=[ohem, dict(ohem, loss_weight=0.4)],
    ),
)

# No part of it is further than another.
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=None)
train_cfg = dict(val_interval=1000)
