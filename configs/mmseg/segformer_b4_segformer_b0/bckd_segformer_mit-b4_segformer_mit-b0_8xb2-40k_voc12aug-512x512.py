_base_ = [
    './segformer_mit-b0_8xb2-40k_voc12aug-512x512.py',
    '../../_base_/distillers/segmentors.py',
]

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    # Upstream has no such teacher: train this config first.
    teacher='{{fileDirname}}/segformer_mit-b4_8xb2-40k_voc12aug-512x512.py',
    teacher_ckpt='work_dirs/segformer_mit-b4_8xb2-40k_voc12aug-512x512/iter_40000.pth',
    distiller={{_base_.bckd}},
)
