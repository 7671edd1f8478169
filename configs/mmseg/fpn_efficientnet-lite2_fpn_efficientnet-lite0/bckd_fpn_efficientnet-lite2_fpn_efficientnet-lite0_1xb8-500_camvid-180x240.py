_base_ = [
    './fpn_efficientnet-lite0_1xb8-500_camvid-180x240.py',
    '../../_base_/distillers/segmentors.py',
]

# With the common weights the gradients of both terms drown that of the task
# in a pretrained backbone: a tenth, by results/camvid-efficientnet-lite-short.
model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.py',
    teacher_ckpt='{{fileDirname}}/fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.pth',
    distiller=dict(
        _base_.bckd,
        boundary=dict(_base_.bckd.boundary, loss_weight=0.2),
        context=dict(_base_.bckd.context, max_tokens=700, loss_weight=0.4),
    ),
)
