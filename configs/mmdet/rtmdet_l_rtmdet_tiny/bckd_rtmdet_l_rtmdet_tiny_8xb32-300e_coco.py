_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../../_base_/distill_hooks.py',
    '../../_base_/distillers/detectors.py',
]

custom_hooks = [*_base_.custom_hooks, *_base_.distill_hooks]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth',
    distiller={{_base_.bckd}},
)
