_base_ = [
    'mmseg::stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py',
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
    teacher='mmseg::stdc/stdc2_in1k-pre_4xb12-80k_cityscapes-512x1024.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/stdc/stdc2_in1k-pre_512x1024_80k_cityscapes/stdc2_in1k-pre_512x1024_80k_cityscapes_20220224_073048-1f8f0f6c.pth',
    distiller={{_base_.bckd}},
)
