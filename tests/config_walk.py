"""What the walks over the configs share."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner import Runner

from mmbckd.models.algorithms import frozen_teacher_distill


def in_rows(configs) -> list[Path]:
    """Configs of one student and teacher follow one another."""
    return sorted(
        configs, key=lambda p: (p.parent, p.stem.partition('_')[2], p.stem)
    )


def each(configs) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('path', configs, ids=lambda p: p.stem)


class ModelBuilder:
    """Builds and initializes a student or teacher once, and copies it for all
    configs of a row. Keeps the last two, so that memory stays small."""

    def __init__(self) -> None:
        self.build = frozen_teacher_distill.build_model
        self.built: dict = {}

    def __call__(self, *args):
        key = repr(args)
        model = self.built.pop(key, None)
        if model is None:
            model = self.build(*deepcopy(args))
            model.init_weights()
        self.built[key] = model
        while len(self.built) > 2:
            del self.built[next(iter(self.built))]
        return deepcopy(model)


build_model = ModelBuilder()


def without_needless_work(monkeypatch) -> None:
    """No weights are downloaded, no model of a row is built twice, no garbage
    is collected among all that is imported, and nothing is formatted only to
    be printed."""
    monkeypatch.setattr(frozen_teacher_distill, 'build_model', build_model)
    monkeypatch.setattr(PretrainedInit, '__call__', lambda self, module: None)
    monkeypatch.setattr(
        'mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=int)
    )
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, False)
    )


class Witness(Hook):
    """Sees the losses of a run, what they reach, and the metrics."""

    def before_train(self, runner: Runner) -> None:
        self.model = runner.model
        self.student = getattr(runner.model, 'architecture', runner.model)
        # Upstream's detectors freeze the stem and the first stage.
        self.first = next(
            parameter
            for parameter in self.student.backbone.parameters()
            if parameter.requires_grad
        )
        self._parse_losses = runner.model.parse_losses
        runner.model.parse_losses = self.parse_losses
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.step)

    def parse_losses(self, losses: dict) -> tuple:
        self.distilled = {
            name.partition('.')[2]: loss
            for name, loss in losses.items()
            if name.startswith('distill.')
        }
        self.reached = {
            name: torch.autograd.grad(loss, self.first, retain_graph=True)[0]
            for name, loss in self.distilled.items()
        }
        loss, self.log = self._parse_losses(losses)
        return loss, self.log

    def step(self, *_) -> None:
        gradients = {
            name: parameter.grad
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.learnt = set(gradients)
        self.finite = all(g.isfinite().all() for g in gradients.values())
        self.reached['sum'] = self.first.grad.clone()

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        self.metrics = metrics

    def check_losses(self, expected: set) -> None:
        """All are finite; those of distillation are there, above 0 (but for
        rounding), and reach the first layer that is trained."""
        assert all(value.isfinite() for value in self.log.values())
        assert set(self.distilled) == expected
        for name, loss in self.distilled.items():
            # MMRazor's CWD, of teacher and student with random weights all but
            # 0, is computed in the bfloat16 of the logits.
            assert loss > (-0.01 if name == 'loss_cwd' else 0), name
        for name, gradient in self.reached.items():
            assert gradient.isfinite().all() and gradient.any(), name
        assert self.finite
