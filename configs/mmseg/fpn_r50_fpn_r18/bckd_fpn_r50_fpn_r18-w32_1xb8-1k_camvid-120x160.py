_base_ = [
    './fpn_r18-w32_1xb8-1k_camvid-120x160.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_r50_1xb8-1.5k_camvid-120x160.py',
    teacher_ckpt='work_dirs/fpn_r50_1xb8-1.5k_camvid-120x160/iter_1500.pth',
    distiller=dict(
        _base_.bckd_features,
        context=dict(_base_.bckd_features.context, max_tokens=600),
    ),
)
