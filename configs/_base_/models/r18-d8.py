# What upstream's ResNet-18-D8 students change in its ResNet-50-D8 models:
# model = {{_base_.r18_d8}}
r18_d8 = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64),
)
deeplabv3plus_r18_d8 = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(
        c1_in_channels=64, c1_channels=12, in_channels=512, channels=128
    ),
    auxiliary_head=dict(in_channels=256, channels=64),
)
