"""What the walks over the configs share."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import mmdet
import mmrazor
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner

from mmbckd.models.algorithms import frozen_teacher_distill

ROOT = Path(__file__).parents[1]
# The configs of one student and teacher follow one another.
ALL_CONFIGS = sorted(
    (
        path
        for folder in ('quickstart', 'mmseg', 'mmdet', 'qat')
        for path in (ROOT / 'configs' / folder).rglob('*.py')
    ),
    key=lambda p: (p.parent, p.stem.partition('_')[2], p.stem),
)
MMSEG, MMDET, MMRAZOR = (
    Path(package.__file__).parent / '.mim/configs'
    for package in (mmseg, mmdet, mmrazor)
)

# What a student has to learn from its teacher, by how the config's name
# begins.
BCKD = {'loss_bd', 'loss_cd'}
MGD = {f'loss_mgd_fpn{i}' for i in range(4)}
PKD = {f'loss_pkd_fpn{i}' for i in range(4)}
TERMS = {
    'bckd': BCKD,
    'bckd-bd': {'loss_bd'},
    'bckd-cd': {'loss_cd'},
    'bckd-cwd': BCKD | {'loss_cwd'},
    'bckd-features': BCKD,
    'bckd-features-cwd': BCKD | {'loss_cwd'},
    'bckd-kd': BCKD | {'loss_kd'},
    'bckd-label': BCKD,
    'bckd-pkd': BCKD | PKD,
    'cwd': {'loss_cwd'},
    'kd': {'loss_kd'},
    'mgd': MGD,
    'pkd': PKD,
}


def terms(path: Path) -> set:
    """The distillation losses that the name of a config promises."""
    found = TERMS.get(kind(path).removeprefix('qat-'), set())
    # RTMDet and YOLOX have three levels.
    has_pafpn = any(name in path.stem for name in ('rtmdet', 'yolox'))
    return found - {'loss_pkd_fpn3'} if has_pafpn else found


def kind(path: Path) -> str:
    """What the name of a config begins with."""
    return path.stem.partition('_')[0]


@cache
def config(path: Path) -> Config:
    """A config that is only looked at."""
    return Config.fromfile(path)


metafile = cache(load)


def file_of(name: str) -> Path:
    """The file of the config that a config here names."""
    scope, _, path = name.rpartition('::')
    if not scope:
        return Path(path).resolve()
    return dict(mmseg=MMSEG, mmdet=MMDET)[scope] / path


def upstream(stem: str) -> Path | None:
    """MMSegmentation's or MMDetection's config of this name."""
    return next(
        (path for root in (MMSEG, MMDET) for path in root.rglob(f'{stem}.py')),
        None,
    )


def is_own_checkpoint(checkpoint: str, config: Path, iters: int) -> bool:
    """Whether it is that of a config here: beside it, or of its training."""
    if checkpoint.startswith('work_dirs'):
        return checkpoint == f'work_dirs/{config.stem}/iter_{iters}.pth'
    file = Path(checkpoint).resolve()
    return file == config.with_suffix('.pth') and file.is_file()


def hostless(url: str) -> str:
    """A checkpoint's name, which the fork of OpenMMLab has on its own host."""
    return re.sub('^https?://[^/]+', '', url)


def plain(node, dropped: tuple = ()):
    """A part of a config without the keys ``dropped``, without the scope that
    inheriting over packages adds, and without the hosts of checkpoints."""
    if isinstance(node, (list, tuple)):
        return [plain(child, dropped) for child in node]
    if isinstance(node, str):
        return hostless(node)
    if not isinstance(node, (dict, Config)):
        return node
    return {
        key: plain(child, dropped)
        for key, child in node.items()
        if key not in ('_scope_', *dropped)
    }


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
            # As the runner does on a CPU, in every copy.
            model = revert_sync_batchnorm(model)
        self.built[key] = model
        while len(self.built) > 2:
            del self.built[next(iter(self.built))]
        # A teacher's copies share its weights, which nothing changes.
        is_teacher = len(args) == 1
        weights = model.parameters() if is_teacher else ()
        return deepcopy(model, {id(weight): weight for weight in weights})


build_model = ModelBuilder()


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
        if hasattr(runner.model, 'distiller'):
            self.distiller = runner.model.distiller
            self._compute = self.distiller.compute_distill_losses
            self.distiller.compute_distill_losses = self.compute_losses

    def compute_losses(self) -> dict:
        self.maps = {
            (loss, side): self.recorded(mappings[key])
            for loss, mappings in self.distiller.loss_forward_mappings.items()
            for side, key in (('student', 'preds_S'), ('teacher', 'preds_T'))
        }
        return self._compute()

    def recorded(self, record: dict) -> tuple:
        """Recorder, module, and the shapes (C, H, W) of what it put out."""
        record = {k: v for k, v in record.items() if k != 'connector'}
        maps = self.distiller.get_record(**record)
        recorder = (
            self.distiller.student_recorders
            if record['from_student']
            else self.distiller.teacher_recorders
        ).get_recorder(record['recorder'])
        return (
            type(recorder).__name__.removesuffix('Recorder'),
            recorder.source,
            [
                tuple(each.shape[1:])
                for each in ([maps] if torch.is_tensor(maps) else maps)
            ],
        )

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
            # 0, is computed in the bfloat16 of the logits: five times a sum
            # over the pixels, each off by up to 1/256 of itself.
            assert loss > (-0.05 if name == 'loss_cwd' else 0), name
        for name, gradient in self.reached.items():
            assert gradient.isfinite().all() and gradient.any(), name
        assert self.finite
