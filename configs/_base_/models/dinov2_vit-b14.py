# DINOv2's ViT-B/14, which no label has taught: needs timm, which downloads the
# weights when the model is built.
default_scope = 'mmseg'
model = dict(
    type='mmrazor.FeatureExtractor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    # Maps of stride 14 after the last block. Images need not be divisible.
    backbone=dict(
        type='TIMMBackbone',
        model_name='vit_base_patch14_dinov2',
        pretrained=True,
        out_indices=(11,),
        dynamic_img_size=True,
        dynamic_img_pad=True,
    ),
)
