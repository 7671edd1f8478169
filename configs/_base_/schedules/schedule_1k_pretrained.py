# A schedule for small segmentors with ImageNet weights, on a CPU if need be.
# Depthwise convolutions on a CPU are faster in float32, channels last, than in
# bfloat16.
_base_ = ['./schedule_1k_bf16.py', '../distill_runtime.py']

# The decoder begins at random; at the backbone's learning rate it is far from
# done after so few iterations.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=5e-4),
    paramwise_cfg=dict(
        custom_keys=dict(neck=dict(lr_mult=5.0), decode_head=dict(lr_mult=5.0))
    ),
)
custom_hooks = [*_base_.custom_hooks, dict(type='ChannelsLastHook')]
