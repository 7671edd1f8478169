_base_ = [
    './pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmseg::pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes/pidnet-l_2xb6-120k_1024x1024-cityscapes_20230303_114514-0783ca6b.pth',
    distiller={{_base_.bckd}},
)
