_base_ = [
    'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
    '../../_base_/distillers/segmentors.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/segformer/segformer_mit-b5_512x512_160k_ade20k/segformer_mit-b5_512x512_160k_ade20k_20210726_145235-94cedf59.pth',
    distiller={{_base_.bckd}},
)
