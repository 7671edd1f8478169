# The student alone, fine-tuned with fake quantization from its float weights.
_base_ = '../mmseg/fpn_efficientnet-lite2_fpn_efficientnet-lite0/fpn_efficientnet-lite0_1xb8-500_camvid-180x240.py'

model = dict(
    _delete_=True,
    type='mmrazor.QuantizationAwareTraining',
    architecture={{_base_.model}},
    quantize=dict(weight_bits=8),
)
load_from = '{{fileDirname}}/../mmseg/fpn_efficientnet-lite2_fpn_efficientnet-lite0/fpn_efficientnet-lite0_1xb8-500_camvid-180x240.pth'
custom_hooks = [*_base_.custom_hooks, dict(type='CalibrationHook')]

optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    # Scales are named after the modules that they belong to, and would have
    # the learning rate of `decode_head`.
    paramwise_cfg=dict(
        custom_keys={
            'quantization.activations': dict(lr_mult=1.0, decay_mult=0.0)
        }
    ),
)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=0,
        end=200,
        by_epoch=False,
    )
]
train_cfg = dict(max_iters=200, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
