# What upstream's SegFormer-B4 changes in its B0:
# model = {{_base_.segformer_mit_b4}}
segformer_mit_b4 = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b4_20220624-d588d980.pth',
        ),
        embed_dims=64,
        num_layers=[3, 8, 27, 3],
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
