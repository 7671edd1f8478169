"""Runs of a few iterations on images of noise, which the tests share."""

from itertools import count

import mmcv
import numpy as np
from mmengine.config import Config

from tests.segmentors import cnn_segmentor

# A run that begins in the same second as another would log where that does, if
# it had the same name; random numbers are the same after each seeded run.
_NUMBERS = count()

CLASSES = ('a', 'b', 'c', 'd', 'e')


def write_images(root, count=4, side=32, labels=5):
    rng = np.random.default_rng(0)
    for i in range(count):
        mmcv.imwrite(
            rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
            str(root / 'img' / f'{i}.jpg'),
        )
        mmcv.imwrite(
            rng.integers(0, labels, (side, side), dtype=np.uint8),
            str(root / 'ann' / f'{i}.png'),
        )


def config(tmp_path, distill=True, classes=CLASSES, **kwargs):
    """A run of a few iterations on images of noise."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='img', seg_map_path='ann'),
            metainfo=dict(classes=classes),
            pipeline=pipeline,
        ),
    )
    student = cnn_segmentor(base_channels=4)
    student['data_preprocessor']['size'] = (32, 32)
    student['data_preprocessor']['seg_pad_val'] = 255
    model = dict(
        type='mmrazor.FrozenTeacherDistill',
        architecture=student,
        teacher=cnn_segmentor(base_channels=8),
        distiller=dict(
            type='BCKDDistiller',
            boundary=dict(student='backbone', teacher='decode_head.conv_seg'),
        ),
    )
    cfg = dict(
        default_scope='mmseg',
        work_dir=str(tmp_path / 'work_dir'),
        experiment_name=f'{tmp_path.name}_{next(_NUMBERS)}',
        model=model if distill else student,
        train_dataloader=loader,
        val_dataloader=dict(
            loader,
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_evaluator=dict(type='IoUMetric'),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
        val_cfg=dict(type='ValLoop'),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)
        ),
        default_hooks=dict(
            logger=dict(type='LoggerHook', log_metric_by_epoch=False),
            checkpoint=dict(
                type='CheckpointHook',
                by_epoch=False,
                interval=1,
                max_keep_ckpts=2,
                save_best='mIoU',
            ),
        ),
        custom_hooks=[
            dict(type='DataCheckHook'),
            dict(type='IterationSeedHook'),
            dict(type='StudentCheckpointHook'),
        ],
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
    )
    cfg.update(kwargs)
    return Config(cfg)


def names(folder, pattern):
    return sorted(p.name for p in folder.glob(pattern))
