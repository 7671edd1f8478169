_base_ = [
    './fpn_efficientnet-lite0-s16_1xb8-1k_camvid-240x320.py',
    '../../_base_/distillers/segmentors.py',
]

teacher = '{{fileDirname}}/../fpn_efficientnet-lite2_fpn_efficientnet-lite0/fpn_efficientnet-lite2_1xb8-4k_camvid-240x320'
model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher=f'{teacher}.py',
    teacher_ckpt=f'{teacher}.pth',
    distiller={{_base_.bckd}},
)
