# With fake quantization, drawn to the float teacher by BCKD.
_base_ = [
    './qat_fpn_efficientnet-lite0_1xb8-200_camvid-180x240.py',
    '../_base_/distillers/segmentors.py',
]

model = dict(
    type='mmrazor.FrozenTeacherDistill',
    teacher='{{fileDirname}}/../mmseg/fpn_efficientnet-lite2_fpn_efficientnet-lite0/fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.py',
    teacher_ckpt='{{fileDirname}}/../mmseg/fpn_efficientnet-lite2_fpn_efficientnet-lite0/fpn_efficientnet-lite2_1xb8-1k_camvid-240x320.pth',
    # A trained student needs no warm-up.
    distiller=dict(_base_.bckd, context=dict(_base_.bckd.context, warmup=0.0)),
)
