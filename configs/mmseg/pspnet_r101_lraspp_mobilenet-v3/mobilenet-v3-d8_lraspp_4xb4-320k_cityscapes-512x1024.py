# Corrected: upstream's config has the iterations of its name in a key that
# MMEngine does not read, and trains half of them.
_base_ = [
    'mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py',
    '../../_base_/distill_runtime.py',
    '../../_base_/seg_evaluator.py',
]

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator

iters = 320000
train_cfg = dict(max_iters=iters)
param_scheduler = [dict(_base_.param_scheduler[0], end=iters)]
