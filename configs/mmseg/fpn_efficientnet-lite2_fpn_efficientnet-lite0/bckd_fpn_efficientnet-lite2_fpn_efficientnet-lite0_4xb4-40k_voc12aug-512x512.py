_base_ = [
    './fpn_efficientnet-lite0_4xb4-40k_voc12aug-512x512.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_efficientnet-lite2_4xb4-40k_voc12aug-512x512.py',
    teacher_ckpt='work_dirs/fpn_efficientnet-lite2_4xb4-40k_voc12aug-512x512/iter_40000.pth',
    distiller={{_base_.bckd}},
)
