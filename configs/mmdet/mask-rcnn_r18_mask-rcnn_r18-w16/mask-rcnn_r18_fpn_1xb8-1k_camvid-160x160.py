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

param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 1000
train_cfg = dict(max_iters=1000, val_interval=250)
default_hooks = dict(checkpoint=dict(interval=500))
