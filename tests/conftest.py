from functools import cache

import mmengine.config.utils
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.utils import register_all_modules

import mmbckd  # noqa: F401


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
