# The teacher, trained from scratch.
_base_ = [
    '../../_base_/models/mask-rcnn_r18_fpn.py',
    '../../_base_/datasets/camvid_instance.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/schedules/schedule_600_adamw.py',
]

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[2])),
    roi_head=dict(
        bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)
    ),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(
        type='PolyLR',
        eta_min=1e-5,
        power=0.9,
        begin=50,
        end=1000,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=1000, val_interval=250)
default_hooks = dict(checkpoint=dict(interval=500))
