_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/distillers/detectors.py',
]

val_evaluator = dict(type='CocoBoundaryMetric')
test_evaluator = val_evaluator

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth',
    distiller={{_base_.bckd}},
)
