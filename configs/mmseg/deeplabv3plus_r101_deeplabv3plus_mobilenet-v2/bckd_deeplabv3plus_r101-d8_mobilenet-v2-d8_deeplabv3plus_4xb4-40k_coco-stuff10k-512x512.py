_base_ = [
    './mobilenet-v2-d8_deeplabv3plus_4xb4-40k_coco-stuff10k-512x512.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    # Upstream has no such teacher: train this config first.
    teacher='{{fileDirname}}/../deeplabv3plus_r101_deeplabv3plus_r18/deeplabv3plus_r101-d8_4xb4-40k_coco-stuff10k-512x512.py',
    teacher_ckpt='work_dirs/deeplabv3plus_r101-d8_4xb4-40k_coco-stuff10k-512x512/iter_40000.pth',
    distiller={{_base_.bckd}},
)
