"""MMRazor's own distillation (CWD) of two tiny segmentors.

``TOY_DATA`` names a folder with ``img/*.jpg`` and ``ann/*.png`` (classes 0
and 1). Nothing of mmbckd is used.
"""

default_scope = 'mmseg'
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)

_net = dict(
    _scope_='mmseg',
    type='EncoderDecoder',
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=4,
        base_channels=4,
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=32,
        channels=4,
        num_convs=1,
        concat_input=False,
        num_classes=2,
        norm_cfg=dict(type='BN'),
    ),
    test_cfg=dict(mode='whole'),
)

model = dict(
    _scope_='mmrazor',
    type='SingleTeacherDistill',
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor', size=(64, 64), seg_pad_val=255
    ),
    architecture=_net,
    teacher=_net,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='decode_head.conv_seg')
        ),
        distill_losses=dict(
            loss_cwd=dict(type='ChannelWiseDivergence', loss_weight=3.0)
        ),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    ),
)

_data = dict(
    type='BaseSegDataset',
    data_root='{{$TOY_DATA:toy}}',
    data_prefix=dict(img_path='img', seg_map_path='ann'),
    metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [255, 0, 0]]),
)
_load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**_data, pipeline=[*_load, dict(type='PackSegInputs')]),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**_data, pipeline=[*_load, dict(type='PackSegInputs')]),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='PolyLR', end=8, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU'
    ),
)
