# 120 more iterations of the trained student. What a loss gives shows here with
# less noise than from the start: every run begins at the same student.
_base_ = './fpn_efficientnet-lite0_1xb8-500_camvid-180x240.py'

model = dict(
    backbone=dict(init_cfg=None),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='{{fileDirname}}/fpn_efficientnet-lite0_1xb8-500_camvid-180x240.pth',
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=0,
        end=120,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=120, val_interval=120)
