"""Every config parses, builds and makes a training step."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from tests.segmentors import batch

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(p for p in ROOT.rglob('*.py') if '_base_' not in p.parts)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_trains(path):
    """Finite losses, of both terms, whose gradient reaches the stem."""
    cfg = Config.fromfile(path)
    assert 'mmbckd' in cfg.custom_imports.imports
    model = dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    distils = 'Distill' in model['type']
    if distils:
        model['teacher_ckpt'] = None
    model = MODELS.build(model)
    model.train()
    student = model.student if distils else model
    losses = model(
        *batch(side=64, num_classes=student.decode_head.num_classes),
        mode='loss')
    if path.stem.startswith('bckd'):
        assert {'distill.loss_bd', 'distill.loss_cd'} <= set(losses)
    loss, log_vars = model.parse_losses(losses)
    loss.backward()
    assert all(torch.isfinite(v).all() for v in log_vars.values())
    stem = student.backbone.stem[0].weight.grad
    assert torch.isfinite(stem).all() and stem.abs().sum() > 0


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_keeps_the_plain_student_and_checks_its_data(path):
    hooks = {h['type'] for h in Config.fromfile(path).custom_hooks}
    assert {'StudentCheckpointHook', 'DataCheckHook'} <= hooks


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_reports_boundaries_and_connectivity(path):
    cfg = Config.fromfile(path)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert {'IoUMetric', 'BoundaryIoUMetric', 'ConnectivityMetric'} == {
            metric['type']
            for metric in evaluator
        }


def test_cityscapes_teacher_is_the_one_upstream_publishes():
    """Checkpoint and config of the teacher, against mmseg's metafile."""
    import mmseg
    from mmengine.fileio import load
    name = 'pspnet_r101-d8_4xb2-80k_cityscapes-512x1024'
    path, = ROOT.rglob('bckd_pspnet_r101-d8_pspnet_r18-d8*cityscapes*.py')
    cfg = Config.fromfile(path)
    mim = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'pspnet'
    entry, = (m for m in load(mim / 'metafile.yaml')['Models']
              if m['Name'] == name)
    assert cfg.model.teacher_ckpt == entry['Weights']
    assert cfg.model.teacher == f'mmseg::pspnet/{name}.py'
    assert cfg.train_cfg.max_iters == 80000
