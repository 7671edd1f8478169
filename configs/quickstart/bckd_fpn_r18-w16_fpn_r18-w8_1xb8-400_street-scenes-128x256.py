_base_ = [
    './fpn_r18-w8_1xb8-400_street-scenes-128x256.py',
    '../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_r18-w16_1xb8-3k_street-scenes-128x256.py',
    teacher_ckpt='{{fileDirname}}/fpn_r18-w16_1xb8-3k_street-scenes-128x256.pth',
    distiller=dict(
        _base_.bckd_features,
        context=dict(_base_.bckd_features.context, max_tokens=512),
    ),
)

custom_hooks = [
    *_base_.custom_hooks,
    dict(type='BCKDVisualizationHook', interval=200),
]
