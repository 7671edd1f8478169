# Corrected: upstream's loss with class weights fails on pixels that are to be
# ignored, see WeightedCrossEntropyLoss.
_base_ = [
    'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

# Those of the branches P, I (by OHEM), D, and of I near the boundaries.
p, *others = _base_.model.decode_head.loss_decode
model = dict(
    decode_head=dict(
        loss_decode=[
            dict(
                type='WeightedCrossEntropyLoss',
                class_weight=p.class_weight,
                loss_weight=p.loss_weight,
            ),
            *others,
        ]
    )
)
