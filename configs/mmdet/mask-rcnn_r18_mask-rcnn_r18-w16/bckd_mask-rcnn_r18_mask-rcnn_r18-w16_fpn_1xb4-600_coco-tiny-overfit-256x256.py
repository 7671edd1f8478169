_base_ = [
    './mask-rcnn_r18-w16_fpn_1xb4-600_coco-tiny-overfit-256x256.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/mask-rcnn_r18_fpn_1xb4-600_coco-tiny-overfit-256x256.py',
    teacher_ckpt='work_dirs/mask-rcnn_r18_fpn_1xb4-600_coco-tiny-overfit-256x256/iter_600.pth',
    distiller=dict(
        _base_.bckd, context=dict(_base_.bckd.context, max_tokens=1024)
    ),
)
