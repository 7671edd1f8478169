import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import METRICS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmrazor.registry import MODELS

from mmbckd.engine import export_student_checkpoint
from tests.runs import CLASSES, config, names, write_images
from tests.segmentors import batch, cnn_segmentor


@METRICS.register_module()
class RisingScore(BaseMetric):
    """Each validation is better than those before."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        done = MessageHub.get_current_instance().get_info('iter')
        return dict(mIoU=100 + done)


class RemoveCheckpoint(Hook):
    """Somebody who tidies up before an iteration."""

    def __init__(self, name, at):
        self.name = name
        self.at = at

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.at:
            os.remove(os.path.join(runner.work_dir, self.name))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A distillation that has run to its end."""
    init_default_scope('mmseg')
    root = tmp_path_factory.mktemp('run')
    write_images(root)
    runner = Runner.from_cfg(config(root))
    runner.train()
    return root, runner


def test_each_checkpoint_that_is_kept_has_its_student(run):
    work_dir = run[0] / 'work_dir'
    kept = [
        n for n in names(work_dir, '*.pth') if not n.endswith('_student.pth')
    ]
    assert 'iter_3.pth' in kept and 'iter_4.pth' in kept
    assert any(n.startswith('best_mIoU') for n in kept)
    students = [n.replace('.pth', '_student.pth') for n in kept]
    assert names(work_dir, '*_student.pth') == sorted(students)


def test_plain_student_gives_the_outputs_of_the_distilled_one(run):
    root, runner = run
    plain = torch.load(
        root / 'work_dir' / 'iter_4_student.pth', weights_only=True
    )
    cfg = config(root, distill=False)
    student = MODELS.build(cfg.model)
    student.load_state_dict(plain['state_dict'], strict=True)
    assert plain['meta']['dataset_meta']['classes'] == CLASSES
    images, _ = batch(side=32)
    runner.model.eval()
    assert torch.equal(student.eval()(images), runner.model(images))


def test_plain_student_needs_neither_mmbckd_nor_mmrazor(run, tmp_path):
    """In a Python in which both cannot be imported."""
    root, runner = run
    cfg = config(root, distill=False)
    images, _ = batch(side=32)
    torch.save(images, tmp_path / 'images.pth')
    runner.model.eval()
    torch.save(runner.model(images), tmp_path / 'expected.pth')
    Config(dict(model=cfg.model, default_scope='mmseg')).dump(
        tmp_path / 'student.py'
    )
    script = f"""
import sys
for name in ('mmbckd', 'mmrazor'):
    sys.modules[name] = None
import torch
from mmseg.apis import init_model
root = {str(tmp_path)!r}
model = init_model(root + '/student.py',
                   {str(root / 'work_dir' / 'iter_4_student.pth')!r},
                   device='cpu')
out = model(torch.load(root + '/images.pth'))
assert torch.equal(out, torch.load(root + '/expected.pth'))
assert tuple(model.dataset_meta['classes']) == {CLASSES!r}
"""
    subprocess.run(
        [sys.executable, '-c', script],
        check=True,
        env={**os.environ, 'MMBCKD_NO_COMPAT': '1'},
    )


def test_resumed_run_takes_its_old_students_along(tmp_path):
    write_images(tmp_path)
    cfg = config(tmp_path)
    cfg.train_cfg.max_iters = 2
    Runner.from_cfg(cfg).train()
    work_dir = tmp_path / 'work_dir'
    assert 'iter_2_student.pth' in names(work_dir, '*.pth')
    cfg = config(tmp_path, resume=True)
    cfg.train_cfg.max_iters = 5
    Runner.from_cfg(cfg).train()
    assert names(work_dir, 'iter_*_student.pth') == [
        'iter_4_student.pth',
        'iter_5_student.pth',
    ]


def test_student_without_its_full_checkpoint_outlives_a_resumed_run(tmp_path):
    """Of the checkpoints only the last is kept, of the students all are."""
    write_images(tmp_path)
    cfg = config(tmp_path)
    cfg.train_cfg.max_iters = 2
    Runner.from_cfg(cfg).train()
    work_dir = tmp_path / 'work_dir'
    best = names(work_dir, 'best_*_student.pth')
    for full in ('iter_1.pth', best[0].replace('_student', '')):
        (work_dir / full).unlink()
    cfg = config(tmp_path, resume=True)
    cfg.train_cfg.max_iters = 5
    cfg.val_evaluator = dict(type='RisingScore')
    Runner.from_cfg(cfg).train()
    assert names(work_dir, 'iter_*_student.pth') == [
        'iter_1_student.pth',
        'iter_4_student.pth',
        'iter_5_student.pth',
    ]
    assert names(work_dir, 'best_*_student.pth') == [
        *best,
        'best_mIoU_iter_5_student.pth',
    ]


def test_student_outlives_a_checkpoint_removed_by_hand_during_the_run(
    tmp_path,
):
    write_images(tmp_path)
    runner = Runner.from_cfg(config(tmp_path))
    runner.register_hook(RemoveCheckpoint('iter_2.pth', at=3))
    runner.train()
    work_dir = tmp_path / 'work_dir'
    assert names(work_dir, 'iter_?.pth') == ['iter_3.pth', 'iter_4.pth']
    assert names(work_dir, 'iter_*_student.pth') == [
        'iter_2_student.pth',
        'iter_3_student.pth',
        'iter_4_student.pth',
    ]


def test_student_of_the_best_checkpoint_goes_with_it(tmp_path):
    write_images(tmp_path)
    Runner.from_cfg(
        config(tmp_path, val_evaluator=dict(type='RisingScore'))
    ).train()
    assert names(tmp_path / 'work_dir', 'best_*') == [
        'best_mIoU_iter_4.pth',
        'best_mIoU_iter_4_student.pth',
    ]


@pytest.mark.parametrize('hook', [True, False])
def test_resumed_run_ends_on_the_numbers_of_an_uninterrupted_one(
    tmp_path, hook
):
    """Dropout included; without the hook its masks would differ."""
    write_images(tmp_path)

    def train(name, iters, **kwargs):
        cfg = config(tmp_path, work_dir=str(tmp_path / name), **kwargs)
        cfg.train_cfg.max_iters = iters
        cfg.model.architecture.decode_head.dropout_ratio = 0.5
        if not hook:
            cfg.custom_hooks = []
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner.model.student.state_dict()

    whole = train('whole', 4)
    train('parts', 2)
    resumed = train('parts', 4, resume=True)
    same = all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert same == hook


def test_channels_last_changes_the_layout_and_not_the_training(tmp_path):
    init_default_scope('mmseg')
    write_images(tmp_path)
    weights = []
    for name, hooks in (('a', []), ('b', [dict(type='ChannelsLastHook')])):
        cfg = config(tmp_path, work_dir=str(tmp_path / name))
        # Not so few channels that the hook refuses them.
        student = cfg.model.architecture
        student.update(
            cnn_segmentor(base_channels=8),
            data_preprocessor=student.data_preprocessor,
        )
        # Later on, other roundings can make other pixels the largest.
        cfg.train_cfg.max_iters = 2
        cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
        runner = Runner.from_cfg(cfg)
        runner.train()
        last = [
            module.weight.is_contiguous(memory_format=torch.channels_last)
            and not module.weight.is_contiguous()
            for model in (runner.model.architecture, runner.model.teacher)
            for module in model.modules()
            if isinstance(module, torch.nn.Conv2d)
            and module.kernel_size != (1, 1)
            and module.in_channels > 1
        ]
        assert last and all(value == (name == 'b') for value in last)
        weights.append(runner.model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(
            weights[1][name], weight, rtol=1e-3, atol=1e-5
        )


def test_channels_last_refuses_what_some_cpus_crash_on(tmp_path):
    """With 4 channels, the first strided shortcut of a ResNet."""
    write_images(tmp_path)
    cfg = config(tmp_path, custom_hooks=[dict(type='ChannelsLastHook')])
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match=r'7 input .*layer2\.0\.downsample'):
        runner.train()


def test_run_that_is_no_distillation_writes_no_students(tmp_path):
    write_images(tmp_path)
    Runner.from_cfg(config(tmp_path, distill=False)).train()
    assert names(tmp_path / 'work_dir', 'iter_4.pth')
    assert not names(tmp_path / 'work_dir', '*_student.pth')


def test_export_of_an_old_checkpoint(run, tmp_path):
    root, runner = run
    out = export_student_checkpoint(
        str(root / 'work_dir' / 'iter_4.pth'), str(tmp_path / 'out.pth')
    )
    student = MODELS.build(config(root, distill=False).model)
    load_checkpoint(student, out, strict=True)
    for name, value in runner.model.student.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name


def test_export_says_what_it_expected(run, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        export_student_checkpoint('nowhere.pth')
    with pytest.raises(ValueError, match='architecture'):
        export_student_checkpoint(
            str(run[0] / 'work_dir' / 'iter_4_student.pth')
        )


def test_student_file_is_smaller_than_the_student_weights_plus_a_little(run):
    """Neither teacher nor optimizer may be left in it."""
    root, runner = run
    weights = sum(
        v.numel() * v.element_size()
        for v in runner.model.student.state_dict().values()
    )
    size = (root / 'work_dir' / 'iter_4_student.pth').stat().st_size
    assert size < weights + 100_000


def test_label_outside_the_classes_is_named(tmp_path):
    write_images(tmp_path, labels=7)
    with pytest.raises(ValueError) as error:
        Runner.from_cfg(config(tmp_path)).train()
    for word in ('labels 0 to 4', '255', '.png', '6'):
        assert word in str(error.value)


def test_classes_of_data_and_model_that_differ_are_named(tmp_path):
    write_images(tmp_path)
    with pytest.raises(ValueError, match='num_classes=5.*3 classes'):
        Runner.from_cfg(config(tmp_path, classes=CLASSES[:3])).train()


def test_empty_training_set_ends_the_run(tmp_path):
    write_images(tmp_path)
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.update(indices=0, serialize_data=False)
    with pytest.raises(ValueError, match='found none'):
        Runner.from_cfg(cfg).train()
