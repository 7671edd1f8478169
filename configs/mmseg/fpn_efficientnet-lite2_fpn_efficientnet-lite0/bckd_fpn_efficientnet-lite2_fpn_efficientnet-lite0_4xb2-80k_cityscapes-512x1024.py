_base_ = [
    './fpn_efficientnet-lite0_4xb2-80k_cityscapes-512x1024.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_efficientnet-lite2_4xb2-80k_cityscapes-512x1024.py',
    teacher_ckpt='work_dirs/fpn_efficientnet-lite2_4xb2-80k_cityscapes-512x1024/iter_80000.pth',
    distiller={{_base_.bckd}},
)
