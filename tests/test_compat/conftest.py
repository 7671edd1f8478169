"""A toy data set and config for real runs of MMRazor."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory) -> str:
    """Four noisy images of two classes."""
    root = tmp_path_factory.mktemp('toy')
    rng = np.random.default_rng(0)
    for folder in ('img', 'ann'):
        (root / folder).mkdir()
    for i in range(4):
        label = np.zeros((64, 64), np.uint8)
        label[:, 16 * i :] = 1
        image = rng.integers(0, 128, (64, 64, 3), np.uint8)
        image[label == 1] += 100
        Image.fromarray(image).save(root / 'img' / f'{i}.jpg')
        Image.fromarray(label).save(root / 'ann' / f'{i}.png')
    return str(root)


@pytest.fixture
def toy_config(toy_data, monkeypatch) -> str:
    """A distillation config, its data included."""
    monkeypatch.setenv('TOY_DATA', toy_data)
    return str(Path(__file__).with_name('toy_distill.py'))
