# The student alone, from ImageNet weights.
_base_ = [
    '../../_base_/models/mask-rcnn_efficientnet-lite0_fpn.py',
    '../../_base_/datasets/camvid_instance_480x360.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/schedules/schedule_600_adamw.py',
]

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[2])),
    roi_head=dict(
        bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)
    ),
)

# The heads begin at random, the backbone does not.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.2)))
)
param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 1000
train_cfg = dict(max_iters=1000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=500))
