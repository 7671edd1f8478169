# The student alone, trained from scratch.
_base_ = [
    '../../_base_/models/mask-rcnn_r18-w16_fpn.py',
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

train_cfg = dict(val_interval=300)
