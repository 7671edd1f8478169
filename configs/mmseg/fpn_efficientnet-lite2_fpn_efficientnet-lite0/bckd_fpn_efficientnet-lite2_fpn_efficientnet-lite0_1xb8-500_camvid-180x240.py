_base_ = [
    './fpn_efficientnet-lite0_1xb8-500_camvid-180x240.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.py',
    teacher_ckpt='{{fileDirname}}/fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.pth',
    # What this schedule was run with has no warm-up.
    distiller=dict(_base_.bckd, context=dict(_base_.bckd.context, warmup=0.0)),
)
