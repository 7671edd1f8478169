_base_ = [
    './mask-rcnn_efficientnet-lite0_fpn_1xb8-1k_camvid-240x320.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/mask-rcnn_efficientnet-lite2_fpn_1xb8-1.5k_camvid-240x320.py',
    teacher_ckpt='work_dirs/mask-rcnn_efficientnet-lite2_fpn_1xb8-1.5k_camvid-240x320/iter_1500.pth',
    distiller={{_base_.bckd}},
)
