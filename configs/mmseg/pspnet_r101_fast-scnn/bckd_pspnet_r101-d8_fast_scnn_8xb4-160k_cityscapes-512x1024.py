# Fast-SCNN learns its classes by binary cross-entropy, one against all; what is
# distilled is the softmax of its logits.
_base_ = [
    'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
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
    teacher='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth',
    distiller={{_base_.bckd}},
)
