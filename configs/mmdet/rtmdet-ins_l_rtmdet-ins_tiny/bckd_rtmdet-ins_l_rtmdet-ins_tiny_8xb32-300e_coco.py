_base_ = [
    'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    '../../_base_/distill_hooks.py',
    '../../_base_/distillers/detectors.py',
]

custom_hooks = [*_base_.custom_hooks, *_base_.distill_hooks]

val_evaluator = dict(type='CocoBoundaryMetric')
test_evaluator = val_evaluator

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmdet::rtmdet/rtmdet-ins_l_8xb32-300e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet-ins_l_8xb32-300e_coco/rtmdet-ins_l_8xb32-300e_coco_20221124_103237-78d1d652.pth',
    distiller={{_base_.bckd}},
)
