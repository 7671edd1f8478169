import gc
import os
from functools import cache
from types import SimpleNamespace

import mmengine.config.utils
import pytest
import torch
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import init_default_scope
from mmseg.utils import register_all_modules

from mmbckd.models.algorithms import frozen_teacher_distill

# The workers of pytest-xdist and what they start share the cores.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded_mmseg_scope():
    register_all_modules(init_default_scope=False)
    init_default_scope('mmseg')
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def metafiles_are_read_once():
    """mmengine reads all of upstream's anew for every ``mmseg::`` base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mmengine.config.utils, 'load', cache(mmengine.config.utils.load)
        )
        yield


@pytest.fixture
def without_needless_work(monkeypatch):
    """For the walks over the configs: no weights are downloaded, no model of a
    row is built twice, nothing is formatted only to be printed, and garbage
    is collected once, among what a test has made."""
    from tests.config_walk import build_model

    monkeypatch.setattr(frozen_teacher_distill, 'build_model', build_model)
    monkeypatch.setattr(PretrainedInit, '__call__', lambda self, module: None)
    monkeypatch.setattr(
        'mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=int)
    )
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, False)
    )
    gc.freeze()
    yield
    gc.collect()
    gc.unfreeze()
