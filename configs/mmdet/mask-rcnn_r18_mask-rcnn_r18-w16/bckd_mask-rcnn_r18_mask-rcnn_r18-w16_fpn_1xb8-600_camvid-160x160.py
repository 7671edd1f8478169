_base_ = [
    './mask-rcnn_r18-w16_fpn_1xb8-600_camvid-160x160.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/mask-rcnn_r18_fpn_1xb8-1k_camvid-160x160.py',
    teacher_ckpt='work_dirs/mask-rcnn_r18_fpn_1xb8-1k_camvid-160x160/iter_1000.pth',
    distiller=dict(
        _base_.bckd, context=dict(_base_.bckd.context, max_tokens=400)
    ),
)
