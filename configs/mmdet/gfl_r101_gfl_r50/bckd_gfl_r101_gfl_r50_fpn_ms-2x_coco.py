_base_ = [
    'mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
    distiller={{_base_.bckd}},
)
