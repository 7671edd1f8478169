_base_ = [
    './pspnet_r18-d8_4xb4-40k_coco-stuff10k-512x512.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmseg::pspnet/pspnet_r101-d8_4xb4-40k_coco-stuff10k-512x512.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x512_4x4_40k_coco-stuff10k/pspnet_r101-d8_512x512_4x4_40k_coco-stuff10k_20210821_014022-831aec95.pth',
    distiller={{_base_.bckd}},
)
