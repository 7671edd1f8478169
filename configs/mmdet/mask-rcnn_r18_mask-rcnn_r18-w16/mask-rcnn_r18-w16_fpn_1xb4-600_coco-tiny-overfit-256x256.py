# The student alone, trained from scratch.
_base_ = [
    '../../_base_/models/mask-rcnn_r18-w16_fpn.py',
    '../../_base_/datasets/coco_tiny_overfit.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/schedules/schedule_600_adamw.py',
]
