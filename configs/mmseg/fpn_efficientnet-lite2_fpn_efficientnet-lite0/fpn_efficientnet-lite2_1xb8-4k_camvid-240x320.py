# The teacher, trained four times as long as a student.
_base_ = './fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.py'

param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 4000
train_cfg = dict(max_iters=4000, val_interval=1000)
