import gc
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mmengine.config.config
import mmengine.config.utils
import numpy as np
import pytest
import torch
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import init_default_scope
from mmseg.models.backbones import timm_backbone
from mmseg.utils import register_all_modules
from PIL import Image

from mmbckd.models.algorithms import frozen_teacher_distill
from tests.toy_table import write

# The workers of pytest-xdist and what they start share the cores.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)


# The files that take longest, which begin: no worker is left with one at the
# end.
LONGEST = (
    'test_quickstart.py',
    'test_deploy/test_export.py',
    'test_new_config/test_write_config.py',
    'test_compat/test_runs.py',
    'test_configs_mmdet.py',
    'test_configs.py',
)


def pytest_collection_modifyitems(items):
    def place(item):
        found = (name for name in LONGEST if str(item.path).endswith(name))
        name = next(found, None)
        return len(LONGEST) if name is None else LONGEST.index(name)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _seeded_mmseg_scope():
    register_all_modules(init_default_scope=False)
    init_default_scope('mmseg')
    torch.manual_seed(0)


@pytest.fixture(scope='session', autouse=True)
def _no_work_that_no_test_asks_for():
    """For every ``mmseg::`` base mmengine reads all of upstream's metafiles
    and the list of what is installed; for every run it asks for the versions
    of compilers and formats the config; for every data set it collects
    garbage, also among all that was imported. That takes longer than a short
    run.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (mmengine.config.utils, 'load'),
            (mmengine.config.config, 'is_installed'),
        ):
            patch.setattr(module, name, cache(getattr(module, name)))
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        # Where MMEngine 0.10.7 and where the fork's look it up.
        for module in (mmengine.config.config, yapf.yapflib.yapf_api):
            patch.setattr(
                module,
                'FormatCode',
                lambda text, **_: (text, False),
                raising=False,
            )
        yield


def untrained(create_model):
    def create(*args, pretrained=False, **kwargs):
        return create_model(*args, pretrained=False, **kwargs)

    return create


@pytest.fixture
def without_needless_work(monkeypatch):
    """For the walks over the configs: no weights are downloaded, no model of a
    row is built twice, nobody is told how weights were initialized, and
    garbage is collected once."""
    from tests.config_walk import build_model

    monkeypatch.setattr(frozen_teacher_distill, 'build_model', build_model)
    monkeypatch.setattr(PretrainedInit, '__call__', lambda self, module: None)
    # These load their weights themselves.
    for backbone in ('mmseg.*.pidnet', 'mmseg.*.swin', 'mmdet.*.swin'):
        monkeypatch.setattr(
            f'{backbone.replace("*", "models.backbones")}.CheckpointLoader',
            SimpleNamespace(load_checkpoint=lambda *_, **__: {'none': 0}),
        )
    if timm_backbone.timm is not None:
        monkeypatch.setattr(
            timm_backbone.timm,
            'create_model',
            untrained(timm_backbone.timm.create_model),
        )
    for module in ('base_module', 'weight_init'):
        monkeypatch.setattr(
            f'mmengine.model.{module}.update_init_info',
            lambda module, init_info: None,
        )
    monkeypatch.setattr(
        'mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=int)
    )
    yield
    gc.collect()


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A table of a tiny student with two seeds, of four iterations each."""
    rng = np.random.default_rng(0)
    for folder, top in (('img', 256), ('ann', 2)):
        (tmp_path / 'data' / folder).mkdir(parents=True)
        for i in range(2):
            shape = (64, 64, 3) if folder == 'img' else (64, 64)
            Image.fromarray(rng.integers(0, top, shape, np.uint8)).save(
                tmp_path
                / 'data'
                / folder
                / f'{i}.{"jpg" if folder == "img" else "png"}'
            )
    monkeypatch.setenv('TOY_DATA', str(tmp_path / 'data'))
    cfg = Config.fromfile(Path(__file__).parent / 'test_compat/toy_distill.py')
    cfg.custom_imports = dict(imports=['mmbckd'])  # lets it be resumed
    cfg.default_hooks.logger.log_metric_by_epoch = False
    preprocessor = cfg.model.data_preprocessor
    cfg.model = dict(cfg.model.architecture, data_preprocessor=preprocessor)
    cfg.dump(tmp_path / 'toy.py')
    return write(tmp_path / 'toy.yml', seeds=[0, 1])
