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
