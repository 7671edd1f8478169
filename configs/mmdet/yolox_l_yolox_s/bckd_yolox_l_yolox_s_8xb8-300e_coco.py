_base_ = [
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    '../../_base_/distill_hooks.py',
    '../../_base_/distillers/detectors.py',
]

# Without YOLOXModeSwitchHook, the first of upstream's: it looks for the head in
# the model that is trained, which is a distillation. The last 15 epochs are like
# the others: with mosaic and mixup, and without the L1 loss.
custom_hooks = [*_base_.custom_hooks[1:], *_base_.distill_hooks]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmdet::yolox/yolox_l_8xb8-300e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth',
    distiller={{_base_.bckd}},
)
