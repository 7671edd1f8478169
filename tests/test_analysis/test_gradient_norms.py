"""The gradients that the tool gradient_norms.py reports."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tests.segmentors import batch
from tests.test_models.test_bckd_distiller import boundary, build, context

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
    import gradient_norms

    return gradient_norms


def model_and_data():
    """A distillation without chance in it, and a batch as it is loaded."""
    model = build(boundary=boundary(), context=context(loss_weight=3.0))
    model.architecture.decode_head.dropout = None
    images, samples = batch()
    data = dict(inputs=list(images), data_samples=samples)
    return model.train(), data


@pytest.mark.parametrize('module', ['backbone', 'backbone.layer2', 'neck'])
def test_gradients_of_all_losses_make_up_that_of_a_step(tool, module):
    model, data = model_and_data()
    found = tool.gradients(model, data, module)
    assert set(found) == {'task', 'distill.loss_bd', 'distill.loss_cd'}

    losses = model(**model.data_preprocessor(data, True), mode='loss')
    model.parse_losses(losses)[0].backward()
    step = torch.cat(
        [
            torch.zeros_like(p).flatten()
            if p.grad is None
            else p.grad.flatten()
            for p in model.student.get_submodule(module).parameters()
        ]
    )
    torch.testing.assert_close(sum(found.values()), step, rtol=1e-4, atol=1e-4)


def test_unknown_module_is_refused_with_those_there_are(tool):
    with pytest.raises(ValueError, match="'necks'.*'neck'"):
        tool.gradients(*model_and_data(), 'necks')


def test_weights_of_the_student_alone_are_loaded_into_the_student(
    tool, tmp_path
):
    model, _ = model_and_data()
    trained, _ = model_and_data()
    torch.save(trained.architecture.state_dict(), tmp_path / 'student.pth')
    torch.save(trained.state_dict(), tmp_path / 'whole.pth')
    tool.load(model, str(tmp_path / 'student.pth'))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.architecture.state_dict().values(),
            trained.architecture.state_dict().values(),
        )
    )
    tool.load(model, str(tmp_path / 'whole.pth'))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), trained.state_dict().values()
        )
    )


def test_checkpoint_of_another_model_is_refused(tool, tmp_path):
    model, _ = model_and_data()
    torch.save({'fc.weight': torch.ones(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='of another model.*fc.weight'):
        tool.load(model, str(tmp_path / 'other.pth'))


def test_norms_ratios_and_cosines_are_means_over_batches(tool, monkeypatch):
    batches = [
        dict(task=[3.0, 4.0], other=[4.0, 3.0]),
        dict(task=[0.0, 2.0], other=[0.0, -1.0]),
    ]
    monkeypatch.setattr(
        tool,
        'gradients',
        lambda model, data, module: {
            k: torch.tensor(v) for k, v in data.items()
        },
    )
    found = tool.measure(None, batches)
    assert found['task'] == dict(norm=3.5, ratio=1.0, cosine=1.0)
    assert found['other'] == pytest.approx(
        dict(norm=3.0, ratio=(1 + 0.5) / 2, cosine=(0.96 - 1) / 2)
    )


def test_the_tool_reads_a_config_and_writes_json(tool, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for file, top, shape in (
        ('img/0.jpg', 256, (64, 64, 3)),
        ('ann/0.png', 2, (64, 64)),
    ):
        (tmp_path / file).parent.mkdir()
        Image.fromarray(rng.integers(0, top, shape, np.uint8)).save(
            tmp_path / file
        )
    monkeypatch.setenv('TOY_DATA', str(tmp_path))
    cfg = Config.fromfile(ROOT / 'tests/test_compat/toy_distill.py')
    cfg.custom_imports = dict(imports=['mmbckd'])
    cfg.dump(tmp_path / 'toy.py')
    out = tmp_path / 'out.json'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        'argv',
        ['gradient_norms.py', 'toy.py', '--batches', '1', '--out', str(out)],
    )
    tool.main()
    found = json.loads(out.read_text())
    assert found['config'] == 'toy' and found['checkpoint'] is None
    assert found['losses']['task']['ratio'] == pytest.approx(1)
    (cwd,) = (v for k, v in found['losses'].items() if k != 'task')
    assert cwd['norm'] > 0
