# The SegNet split of CamVid: 367 images to train, 101 to validate. Models see
# them at half their size, 240x180, and are evaluated on the whole, 480x360.
# Point the environment variable MMBCKD_CAMVID at a folder of the layout that
# mmbckd.datasets.CamVidDataset describes.
_base_ = ['../seg_evaluator.py']

dataset_type = 'CamVidDataset'
data_root = '{{$MMBCKD_CAMVID:data/camvid}}'
# For WeightedCrossEntropyLoss, by `python tools/class_weights.py CONFIG
# --power 0.5` of a config with these data.
class_weight = [
    0.529,
    0.449,
    2.188,
    0.386,
    1.000,
    0.651,
    1.961,
    1.407,
    0.888,
    2.527,
    2.970,
]
crop_size = (120, 160)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(240, 180),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/train', seg_map_path='annotations/train'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/val', seg_map_path='annotations/val'
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = {{_base_.seg_evaluator}}
test_evaluator = val_evaluator
