"""A table of a tiny student, to be run, and what its runs leave."""

import json
from pathlib import Path

import yaml
from mmengine.config import Config

from mmbckd.analysis.tables.jobs import Job

FINISHED = [dict(loss=1.0, iter=4, step=4), dict(mIoU=55.0, step=4)]


def write(path: Path, **changes) -> Path:
    """A definition with the student toy.py."""
    node = dict(
        title='Toy',
        metrics=['mIoU', 'b0_err'],
        input_size=[64, 64],
        pairs=[dict(title='toy', student='toy.py')],
    )
    path.write_text(yaml.safe_dump({**node, **changes}))
    return path


def leave_test(job: Job, checkpoint: str, miou: float, time='20260101_000000'):
    """Leave what a test of a checkpoint leaves in a work directory."""
    folder = job.work_dir / time
    (folder / 'vis_data').mkdir(parents=True)
    (folder / f'{time}.json').write_text(json.dumps(dict(mIoU=miou, time=1)))
    config = Config(dict(load_from=checkpoint))
    config.dump(folder / 'vis_data/config.py')
    config.dump(job.work_dir / 'toy.py')


def leave_training(
    job: Job, records: list[dict], config: dict, time='20260101_000000'
) -> None:
    """Leave what a training leaves in a work directory."""
    vis_data = job.work_dir / time / 'vis_data'
    vis_data.mkdir(parents=True)
    (vis_data / f'{time}.json').write_text('\n'.join(map(json.dumps, records)))
    dumped = Config(dict(config, train_cfg=job.config.train_cfg))
    dumped.dump(vis_data / 'config.py')
    dumped.dump(job.work_dir / 'toy.py')
