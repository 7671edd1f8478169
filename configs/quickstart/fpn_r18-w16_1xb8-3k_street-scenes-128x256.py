# The teacher: ResNet-18 of a quarter of the width, trained for longer. Its
# checkpoint and log are beside this file.
_base_ = ['./fpn_r18-w8_1xb8-400_street-scenes-128x256.py']

model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=32),
)

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 3000
train_cfg = dict(max_iters=3000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
