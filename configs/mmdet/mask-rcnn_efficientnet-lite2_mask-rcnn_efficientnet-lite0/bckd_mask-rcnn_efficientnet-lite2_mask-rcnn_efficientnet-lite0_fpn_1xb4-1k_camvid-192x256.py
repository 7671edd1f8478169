_base_ = [
    './mask-rcnn_efficientnet-lite0_fpn_1xb4-1k_camvid-192x256.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/mask-rcnn_efficientnet-lite2_fpn_1xb4-2k_camvid-192x256.py',
    teacher_ckpt='{{fileDirname}}/mask-rcnn_efficientnet-lite2_fpn_1xb4-2k_camvid-192x256.pth',
    distiller={{_base_.bckd_boxes}},
)
