"""The tutorials are followed, as they stand, on small images.

The files of a page are written, its commands are run in their order. What
makes it small is replaced in the files: see ``SMALL``.
"""

import re
import runpy
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from mmseg.visualization import SegLocalVisualizer

import mmbckd  # noqa: F401
from mmbckd.models.quantization import FakeQuantization
from tests.runs import config as run_config

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / 'docs' / 'en' / 'user_guides'
BLOCK = re.compile(
    r'^```(?:(?P<language>bash)|{code-block} python\n:caption: (?P<file>\S+))'
    r'\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
# What a page says, and what is run.
SMALL = {
    '--gpus 1': '--gpus 0',
    r'num_workers=\d': 'num_workers=0, persistent_workers=False',
    r'in_channels=\[64, 128, 256, 512\]': 'in_channels=[8, 16, 32, 64]',
    r'\b(?=(?:decode|bbox)_head=)': 'backbone=dict(base_channels=8), '
    'neck=dict(in_channels=[32, 64, 128, 256]), ',
    # segmentor.md
    r'\(1024, 512\)': '(128, 64)',
    r'\(512, 512\)': '(64, 64)',
    'batch_size=8': 'batch_size=2',
    '8000': '2',
    "type='LoggerHook'": "type='LoggerHook', interval=1",
    'val_interval=1000': 'val_interval=2',
    'interval=1000': 'interval=2',
    # detector.md
    r'\(1333, 800\)': '(128, 64)',
    r'max_epochs=12\b': 'max_epochs=1',
    r'epoch_12(?!\d)': 'epoch_1',
}


def blocks(page: str) -> list:
    """Its files and commands, in their order."""
    return [
        (match['file'], match['text'])
        for match in BLOCK.finditer((GUIDES / page).read_text())
    ]


def small(text: str) -> str:
    for pattern, replacement in SMALL.items():
        text = re.sub(pattern, replacement, text)
    return text


def mim(monkeypatch, command: str) -> None:
    """Run the tool that ``mim`` would start, but in this process."""
    program, action, package, *arguments = shlex.split(command)
    assert program == 'mim'
    name = arguments.pop(0) if action == 'run' else action
    if '--gpus' in arguments:
        place = arguments.index('--gpus')
        del arguments[place : place + 2]
    if '--checkpoint' in arguments:  # mim hands it over by place
        place = arguments.index('--checkpoint')
        arguments.insert(1, arguments.pop(place + 1))
        arguments.remove('--checkpoint')
    module = {'mmsegmentation': 'mmseg'}.get(package, package)
    tools = Path(sys.modules[module].__file__).parent / '.mim' / 'tools'
    (tool,) = tools.rglob(f'{name}.py')
    monkeypatch.setattr(sys, 'argv', [str(tool), *arguments])
    monkeypatch.setattr(sys, 'path', [str(tool.parent), *sys.path])
    # A process of its own would begin without any of these.
    for manager in (DefaultScope, DetLocalVisualizer, SegLocalVisualizer):
        manager._instance_dict.clear()
    runpy.run_path(str(tool), run_name='__main__')


def leaves(folder: Path) -> None:
    """Images of a leaf with a spot, and their label maps."""
    for split, count in (('train', 4), ('val', 2)):
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((64, 96), np.uint8)
            cv2.circle(labels, (40 + 4 * i, 32), 20, 1, -1)
            cv2.circle(labels, (36 + 4 * i, 28), 6, 2, -1)
            image = np.uint8([[30, 40, 50], [40, 160, 60], [20, 60, 140]])
            name = f'{i:04}'
            cv2.imwrite(
                str(folder / 'images' / split / f'{name}.jpg'), image[labels]
            )
            cv2.imwrite(str(folder / 'labels' / split / f'{name}.png'), labels)


def apples(folder: Path) -> None:
    """Images of an apple and a leaf, annotated as COCO does."""
    (folder / 'annotations').mkdir(parents=True)
    for split, count in (('train', 4), ('val', 2)):
        (folder / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            image = np.full((64, 96, 3), 90, np.uint8)
            name = f'{i:04}.jpg'
            images.append(dict(id=i, file_name=name, height=64, width=96))
            for category, x in ((1, 8 + i), (2, 56 - i)):
                box = [x, 16, 28, 32]
                image[16:48, x : x + 28] = 60 * category
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=category,
                        bbox=box,
                        area=28 * 32,
                        iscrowd=0,
                    )
                )
            cv2.imwrite(str(folder / split / name), image)
        categories = [dict(id=1, name='apple'), dict(id=2, name='leaf')]
        dump(
            dict(
                images=images, annotations=annotations, categories=categories
            ),
            folder / 'annotations' / f'{split}.json',
        )


@pytest.fixture
def at_home(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in, and backbones without a download."""
    backbones = tmp_path / 'backbones'
    backbones.mkdir()
    for name in (
        'resnet50_v1c-2cccc1ad',
        'resnet18_v1c-b5776b93',
        'resnet50-0676ba61',
        'resnet18-f37072fd',
    ):
        torch.save({'state_dict': {}}, backbones / f'{name}.pth')
    monkeypatch.setenv('MMBCKD_CHECKPOINTS', str(backbones))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ('page', 'draw', 'data', 'losses'),
    [
        ('segmentor.md', leaves, 'data/leaves', {'bd', 'cd', 'cwd'}),
        ('detector.md', apples, 'data/apples', {'bd', 'cd'}),
    ],
    ids=['segmentor', 'detector'],
)
def test_tutorial_ends_in_a_plain_student(
    page, draw, data, losses, at_home, monkeypatch
):
    draw(at_home / data)
    runs = {}

    def keep(name: str) -> None:
        """Have ``Runner.train`` or ``Runner.test`` leave its last runner."""
        run = getattr(Runner, name)

        def kept(runner: Runner):
            runs[name] = runner
            return run(runner)

        monkeypatch.setattr(Runner, name, kept)

    keep('train')
    keep('test')

    for file, text in blocks(page):
        if file == 'bckd_student.py':  # what new_config should have written
            (at_home / 'shown.py').write_text(small(text))
            written, shown = (
                Config.fromfile(at_home / name).model.distiller
                for name in (file, 'shown.py')
            )
            assert written == shown
        elif file:
            (at_home / file).write_text(small(text))
        else:
            for line in small(text).splitlines():
                mim(monkeypatch, line)

    history = runs['train'].message_hub.log_scalars
    assert {
        key.removeprefix('train/distill.loss_')
        for key in history
        if key.startswith('train/distill.')
    } == losses
    for key, values in history.items():
        if 'loss' in key:
            assert np.isfinite(values.data[0]).all(), key
    # What the last command has tested is the student's own model, and all
    # of it.
    (plain,) = at_home.glob('work_dirs/bckd_student/*_student.pth')
    weights = torch.load(plain, map_location='cpu')['state_dict']
    tested = runs['test'].model.state_dict()
    assert Path(runs['test'].cfg.filename).name == 'student.py'
    assert tested.keys() == weights.keys()
    assert all(torch.equal(tested[name], weights[name]) for name in weights)


def test_any_student_is_fine_tuned_as_the_guide_says(tmp_path, monkeypatch):
    """With a teacher, and without one, where no hook of ours is inherited."""
    monkeypatch.chdir(tmp_path)
    run_config(tmp_path).dump('bckd_my_student.py')
    student = run_config(tmp_path, distill=False)
    student.pop('custom_hooks')
    student.dump('my_student.py')
    page = (GUIDES / 'deploy.md').read_text()
    found = re.findall(r'^```python\n(_base_ = .*?)^```$', page, re.M | re.S)
    assert len(found) == 2
    for file, text in zip(('with_teacher.py', 'alone.py'), found):
        Path(file).write_text(text)
        cfg = Config.fromfile(file)
        hooks = {hook.type for hook in cfg.custom_hooks}
        assert hooks >= {'StudentCheckpointHook', 'CalibrationHook'}
        with DefaultScope.overwrite_default_scope('mmseg'):
            model = MODELS.build(cfg.model)
        assert isinstance(model.quantization, FakeQuantization)
        imports = cfg.get('custom_imports', {}).get('imports', ())
        assert file == 'with_teacher.py' or 'mmbckd' in imports
