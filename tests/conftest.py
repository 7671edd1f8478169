import os
from functools import cache

import mmengine.config.utils
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.utils import register_all_modules

import mmbckd  # noqa: F401

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
