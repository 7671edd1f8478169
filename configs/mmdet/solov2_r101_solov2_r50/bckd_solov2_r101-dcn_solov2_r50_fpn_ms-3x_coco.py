_base_ = [
    'mmdet::solov2/solov2_r50_fpn_ms-3x_coco.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/distillers/detectors.py',
]

val_evaluator = dict(type='CocoBoundaryMetric')
test_evaluator = val_evaluator

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    # Upstream publishes R101 with deformable convolutions only.
    teacher='mmdet::solov2/solov2_r101-dcn_fpn_ms-3x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/solov2/solov2_r101_dcn_fpn_3x_coco/solov2_r101_dcn_fpn_3x_coco_20220513_214734-16c966cb.pth',
    distiller={{_base_.bckd}},
)
