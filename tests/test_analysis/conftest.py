from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.toy_table import write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """The tool's module; it runs in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.chdir(tmp_path)
    import run_table

    return run_table


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
    cfg = Config.fromfile(ROOT / 'tests/test_compat/toy_distill.py')
    cfg.custom_imports = dict(imports=['mmbckd'])  # lets it be resumed
    cfg.default_hooks.logger.log_metric_by_epoch = False
    preprocessor = cfg.model.data_preprocessor
    cfg.model = dict(cfg.model.architecture, data_preprocessor=preprocessor)
    cfg.dump(tmp_path / 'toy.py')
    return write(tmp_path / 'toy.yml', seeds=[0, 1])
