_base_ = [
    '../pidnet_l_pidnet_s/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmseg::segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/segformer/segformer_mit-b5_8x1_1024x1024_160k_cityscapes/segformer_mit-b5_8x1_1024x1024_160k_cityscapes_20211206_072934-87a052ec.pth',
    distiller={{_base_.bckd}},
)
