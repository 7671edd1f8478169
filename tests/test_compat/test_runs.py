"""Real runs through ``mim``, each in the processes that users get.

The environment must have mmbckd installed: what puts the compat layer in place
is its start-up hook.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmbckd  # noqa: F401  (torch.load below needs the layer)

CONFIG = str(Path(__file__).with_name('toy_distill.py'))


def mim(work_dir: Path, data: str, *arguments: str) -> str:
    """Run mim on CPU; its output, which has the log of the run in it."""
    done = subprocess.run(
        [
            sys.executable,
            '-W',
            'ignore',
            '-m',
            'mim',
            *arguments,
            '--work-dir',
            str(work_dir),
        ],
        env=dict(
            os.environ,
            TOY_DATA=data,
            CUDA_VISIBLE_DEVICES='',
            OMP_NUM_THREADS='1',
        ),
        cwd=work_dir,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('work_dir')


@pytest.fixture(scope='module')
def train_log(work_dir, toy_data) -> str:
    """Four iterations of ``mim train mmrazor`` in one process."""
    return mim(work_dir, toy_data, 'train', 'mmrazor', CONFIG)


@pytest.fixture(scope='module')
def resume_log(work_dir, toy_data, train_log) -> str:
    """Two more in two processes, through mmbckd's own tools."""
    return mim(
        work_dir,
        toy_data,
        'train',
        'mmbckd',
        CONFIG,
        '--launcher',
        'pytorch',
        '--gpus',
        '2',
        '--resume',
        '--cfg-options',
        'train_cfg.max_iters=6',
    )


def test_mim_trains_with_mmrazors_own_distillation(train_log, work_dir):
    assert 'distill.loss_cwd' in train_log
    assert (work_dir / 'iter_4.pth').exists()


def test_log_says_once_what_was_patched(train_log, work_dir):
    assert train_log.count('mmbckd patched mmrazor for this run') == 1
    (file,) = work_dir.glob('*/*.log')
    assert file.read_text().count('mmbckd patched mmrazor') == 1


def test_two_processes_train_validate_and_save(resume_log, work_dir):
    assert 'Distributed training: True' in resume_log
    assert 'GPU number: 2' in resume_log
    assert '[2/2]    aAcc' in resume_log  # each rank had two of four images
    assert resume_log.count('mmbckd patched mmrazor for this run') == 1
    assert '--local-rank is handed to' in resume_log.replace(
        "launcher's --local-rank", '--local-rank'
    )


def test_resumed_run_goes_on_where_it_stopped(resume_log, work_dir):
    assert 'resumed epoch: 0, iter: 4' in resume_log
    saved = torch.load(work_dir / 'iter_6.pth', map_location='cpu')
    losses, _ = saved['message_hub']['log_scalars']['train/loss'].data
    assert len(losses) == 6
    assert saved['optimizer']['state'][0]['momentum_buffer'] is not None
    assert saved['param_schedulers'][0]['last_step'] == 6


def test_mim_tests_a_checkpoint(resume_log, work_dir, toy_data):
    log = mim(
        work_dir,
        toy_data,
        'test',
        'mmrazor',
        CONFIG,
        '--checkpoint',
        str(work_dir / 'iter_6.pth'),
    )
    assert 'Load checkpoint from' in log
    assert 'Epoch(test) [4/4]    aAcc' in log
