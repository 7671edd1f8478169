_base_ = [
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/distillers/detectors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    distiller={{_base_.bckd}},
)
