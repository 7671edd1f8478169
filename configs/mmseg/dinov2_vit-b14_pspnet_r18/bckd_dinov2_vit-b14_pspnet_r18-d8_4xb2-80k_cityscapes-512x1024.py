# Both terms on features: the teacher knows no classes.
_base_ = [
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
    '../../_base_/distillers/segmentors.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

vit = dict(type='ModuleOutputs', source='backbone', data_idx=0)
model = dict(
    _delete_=True,
    type='mmrazor.FrozenTeacherDistill',
    architecture={{_base_.model}},
    teacher='{{fileDirname}}/../../_base_/models/dinov2_vit-b14.py',
    distiller=dict(
        type='BCKDDistiller',
        boundary=dict(
            _base_.bckd_features.boundary, teacher=vit, source='feature'
        ),
        context=dict(_base_.bckd_features.context, teacher=vit),
    ),
)
