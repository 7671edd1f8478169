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
    teacher='mmseg::mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640_20221203_235230-7ec0f569.pth',
    distiller={{_base_.bckd_queries}},
)
