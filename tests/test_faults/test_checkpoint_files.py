"""Checkpoints that are not there, broken, foreign or hostile."""

import os
import pickle
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import get_external_models
from mmrazor.registry import MODELS

from mmbckd.engine.checkpoints import FOLDER
from tests.runs import config as run_config
from tests.runs import write_images
from tests.segmentors import cnn_segmentor, transformer_segmentor
from tests.test_compat.test_checkpoints import MALICIOUS, save_pickle, text

URL = 'https://host.invalid/zoo/teacher_20240101-0a1b2c3d.pth'
WAYS = ('teacher', 'resume', 'load_from')


def config(data: Path, tmp_path: Path, **kwargs) -> Config:
    """One iteration without validation."""
    kwargs.update(
        work_dir=str(tmp_path / 'run'),
        val_dataloader=None,
        val_evaluator=None,
        val_cfg=None,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
        default_hooks=dict(checkpoint=None),
    )
    return run_config(data, **kwargs)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_images(root)
    return root


def weights(**kwargs) -> dict:
    return dict(
        state_dict=MODELS.build(cnn_segmentor(8, **kwargs)).state_dict()
    )


def missing(path: Path) -> None:
    """Nothing is written."""


def cut_off(path: Path) -> None:
    torch.save(weights(), path)
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.touch()


def web_page(path: Path) -> None:
    """What a host that has no such file sends."""
    path.write_text('<!DOCTYPE html><html>404 not found</html>')


def other_architecture(path: Path) -> None:
    torch.save(
        dict(
            state_dict=MODELS.build(transformer_segmentor()).state_dict(),
            meta=dict(epoch=0, iter=2),
            optimizer=dict(),
            message_hub=dict(),
        ),
        path,
    )


def malicious(path: Path) -> None:
    save_pickle(
        path,
        b'\x80\x02}' + text('state_dict') + MALICIOUS['os.system'] + b's.',
    )


MESSAGES = {
    missing: (FileNotFoundError, 'x.pth does not exist'),
    cut_off: (ValueError, r'x.pth .*cut off or damaged'),
    empty: (ValueError, r'x.pth \(0 bytes\) .*cut off or damaged'),
    web_page: (ValueError, r'x.pth .*cut off or damaged'),
    other_architecture: (ValueError, 'not of the teacher|of another model'),
    malicious: (
        pickle.UnpicklingError,
        r'x.pth is refused.*(posix|os)\.system',
    ),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('fault', MESSAGES, ids=lambda fault: fault.__name__)
def test_unusable_checkpoint_ends_the_run_with_its_name(
    fault, way, data, tmp_path
):
    path = tmp_path / 'x.pth'
    fault(path)
    cfg = config(data, tmp_path)
    if way == 'teacher':
        cfg.model.teacher_ckpt = str(path)
    else:
        cfg.load_from = str(path)
        cfg.resume = way == 'resume'
    before = path.read_bytes() if path.exists() else None
    error, words = MESSAGES[fault]
    with pytest.raises(error) as caught:
        Runner.from_cfg(cfg).train()
    message = str(caught.value)
    assert 'x.pth' in message and re.search(words, message, re.DOTALL)
    assert 'weights_only' not in message  # no advice to run the file
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize('legacy', [False, True])
def test_other_errors_of_loading_are_left_alone(legacy, tmp_path, monkeypatch):
    """The file is as good as it was."""
    path = str(tmp_path / 'x.pth')
    torch.save(weights(), path, _use_new_zipfile_serialization=not legacy)

    def fail(*args, **kwargs):
        raise RuntimeError('CUDA out of memory')

    monkeypatch.setattr(torch, 'load', fail)
    # What the maintained fork calls.
    monkeypatch.setattr(
        'mmengine.runner.checkpoint._safe_torch_load', fail, raising=False
    )
    with pytest.raises(RuntimeError, match='^CUDA out of memory$'):
        CheckpointLoader.load_checkpoint(path)


def test_old_format_is_told_apart_as_well(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(weights(), path, _use_new_zipfile_serialization=False)
    assert CheckpointLoader.load_checkpoint(str(path))['state_dict']
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match='cut off or damaged'):
        CheckpointLoader.load_checkpoint(str(path))
    path.write_bytes(pickle.dumps(os.system))
    with pytest.raises(pickle.UnpicklingError, match='x.pth is refused'):
        CheckpointLoader.load_checkpoint(str(path))


def test_student_alone_cannot_be_resumed(data, tmp_path):
    path = tmp_path / 'iter_2_student.pth'
    torch.save(dict(weights(), meta=dict(iter=2)), path)
    cfg = config(data, tmp_path, resume=True)
    cfg.load_from = str(path)
    with pytest.raises(ValueError, match='resume.*`optimizer`.*load_from'):
        Runner.from_cfg(cfg).train()


def test_part_of_a_model_may_still_be_loaded(data, tmp_path):
    """A backbone's weights for finetuning, as mmengine allows."""
    cfg = config(data, tmp_path, distill=False)
    state = {
        k: torch.full_like(v, 2)
        for k, v in MODELS.build(cfg.model).state_dict().items()
        if k.startswith('backbone.stem.0')
    }
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    cfg.load_from = str(tmp_path / 'x.pth')
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (runner.model.backbone.stem[0].weight == 2).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_teacher_with_weights_that_are_not_finite_is_refused(
    value, data, tmp_path
):
    checkpoint = weights()
    checkpoint['state_dict']['decode_head.conv_seg.bias'][1] = value
    torch.save(checkpoint, tmp_path / 'x.pth')
    cfg = config(data, tmp_path)
    cfg.model.teacher_ckpt = str(tmp_path / 'x.pth')
    with pytest.raises(
        ValueError, match=r'x\.pth .*NaN.*decode_head\.conv_seg\.bias'
    ):
        Runner.from_cfg(cfg)


# ------------------------------------------------------------- downloading


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A host that is down, and an empty cache."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError('Connection refused')

    monkeypatch.setattr('torch.hub.urlopen', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv(FOLDER, raising=False)


@pytest.mark.parametrize(
    'name, url',
    [
        (URL, URL),
        # Each stack has a host of its own.
        ('open-mmlab://resnet18_v1c', get_external_models()['resnet18_v1c']),
        ('torchvision://resnet18', 'https://download.pytorch.org/'),
    ],
)
def test_unreachable_host_says_how_to_name_a_file(no_network, name, url):
    with pytest.raises(OSError) as error:
        CheckpointLoader.load_checkpoint(name)
    message = str(error.value)
    for words in (
        url,
        'Connection refused',
        f'{FOLDER}=',
        'teacher_ckpt',
        'init_cfg',
        'load_from',
    ):
        assert words in message


@pytest.mark.parametrize('way', ['teacher', 'init_cfg', 'load_from'])
def test_folder_of_checkpoints_stands_in_for_the_host(
    no_network, way, monkeypatch, data, tmp_path
):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    source = MODELS.build(cnn_segmentor(8))
    source.backbone.stem[0].weight.data.fill_(2)
    path = tmp_path / URL.rpartition('/')[2]
    cfg = config(data, tmp_path, distill=False)
    cfg.model = cnn_segmentor(8)
    cfg.model.data_preprocessor.update(size=(32, 32), seg_pad_val=255)
    state = source.state_dict()
    if way == 'init_cfg':
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=URL)
        state = source.backbone.state_dict()
    elif way == 'load_from':
        cfg.load_from = URL
    else:
        cfg.model = config(data, tmp_path).model
        cfg.model.teacher_ckpt = URL
    torch.save(dict(state_dict=state), path)
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = runner.model.teacher if way == 'teacher' else runner.model
    assert (model.backbone.stem[0].weight == 2).all()


def test_short_name_of_a_backbone_is_looked_up_in_the_folder(
    no_network, monkeypatch, tmp_path
):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    torch.save(dict(a=torch.ones(1)), tmp_path / 'resnet18_v1c-b5776b93.pth')
    loaded = CheckpointLoader.load_checkpoint('open-mmlab://resnet18_v1c')
    assert loaded['a'] == 1


def test_folder_without_the_file_is_named(no_network, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(
        OSError,
        match=f'{re.escape(str(tmp_path))}.*has no '
        'teacher_20240101-0a1b2c3d.pth',
    ):
        CheckpointLoader.load_checkpoint(URL)
    monkeypatch.setenv(FOLDER, str(tmp_path / 'nowhere'))
    with pytest.raises(FileNotFoundError, match=f'{FOLDER}.*nowhere'):
        CheckpointLoader.load_checkpoint(URL)


def test_download_that_was_cut_off_is_to_be_deleted(no_network, tmp_path):
    folder = tmp_path / 'cache' / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    cut_off(folder / URL.rpartition('/')[2])
    with pytest.raises(ValueError, match=r'hub/checkpoints.*Delete it'):
        CheckpointLoader.load_checkpoint(URL)


def test_downloads_still_work(monkeypatch, tmp_path):
    """Through torch.hub, into its cache."""
    torch.save(dict(a=torch.ones(1)), tmp_path / 'a.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(
        'torch.hub.urlopen',
        lambda *args, **kwargs: urllib.request.urlopen(
            (tmp_path / 'a.pth').as_uri()
        ),
    )
    loaded = CheckpointLoader.load_checkpoint('https://host.invalid/a.pth')
    assert loaded['a'] == 1
    assert (tmp_path / 'cache/hub/checkpoints/a.pth').exists()
