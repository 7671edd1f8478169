"""The command, and mim test's way of testing what it has written."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmbckd.analysis.predictions import build_student
from mmbckd.analysis.runs import read_run
from mmbckd.deploy import Comparison, Interface, export_onnx, export_qdq
from mmbckd.engine import checkpoints
from mmbckd.models import ONNXSegmentor
from mmbckd.models.quantization import FakeQuantization
from mmbckd.stack import distribution_of
from tests import runs
from tests.segmentors import cnn_segmentor
from tests.test_deploy.test_export import build, pictures

sys.path.insert(0, str(Path(__file__).parents[2] / 'tools'))
import export_student


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A distillation's config and checkpoint, images of two sizes."""
    monkeypatch.chdir(tmp_path)
    runs.write_images(tmp_path, count=6)
    config = runs.config(tmp_path, train_cfg=None, optim_wrapper=None)
    for split in ('train', 'val'):
        dataset = config[f'{split}_dataloader'].dataset
        dataset.pipeline.insert(
            1, dict(type='Resize', scale=(64, 32), keep_ratio=False)
        )
    config.test_dataloader = config.val_dataloader
    config.test_evaluator = config.val_evaluator
    config.test_cfg = dict(type='TestLoop')
    config.train_dataloader.dataset.pipeline.insert(
        -1, dict(type='RandomFlip', prob=1.0)
    )
    config.dump(tmp_path / 'run.py')
    weights = build(copy.deepcopy(config.model.architecture)).state_dict()
    torch.save(
        {
            'state_dict': {
                **{f'architecture.{k}': v for k, v in weights.items()},
                'teacher.conv.weight': torch.zeros(1),
            }
        },
        tmp_path / 'run.pth',
    )
    return tmp_path


def export(*options):
    """The exit code of the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, 'argv', ['export_student', 'run.py', 'run.pth', *options]
        )
        with pytest.raises(SystemExit) as exit_:
            export_student.main()
    return exit_.value.code


def mim_test(stem, folder):
    """mim test by its command line, which starts a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'mim', 'test'),
            distribution_of('mmseg'),
            *(f'{stem}.py', '--checkpoint', f'{stem}.onnx'),
            *('--work-dir', 'work_dir'),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_files_are_compared_tested_and_described(training, capsys):
    assert not export(
        *('--out', 'out', '--int8', '--reduce-range', '--test'),
        *('--min-int8-agreement', '50', '--num-images', '2'),
    )
    said = capsys.readouterr().out
    assert '100.000% of the labels equal' in said
    assert sorted(x.name for x in (training / 'out').iterdir()) == [
        'run.json',
        'run.onnx',
        'run.py',
        'run_int8.json',
        'run_int8.onnx',
        'run_int8.py',
        'run_int8_layers.json',
        'run_results.json',
    ]
    found = json.loads((training / 'out' / 'run_results.json').read_text())
    plain, exported, int8 = found['rows']
    assert exported['metrics'] == plain['metrics']
    assert int8['megabytes'] < 0.6 * exported['megabytes']
    # The same by the config that was written, from any folder.
    cfg = Config.fromfile(training / 'out' / 'run.py')
    assert not hasattr(cfg, 'train_dataloader')
    (training / 'elsewhere').mkdir()
    mim_test(training / 'out' / 'run', training / 'elsewhere')
    (log,) = (training / 'elsewhere').glob('work_dir/*/*.json')
    tested = json.loads(log.read_text())
    assert {key: tested[key] for key in plain['metrics']} == pytest.approx(
        plain['metrics']
    )
    # The report takes the file like any other run.
    run = read_run('out/run_int8.py', 'INT8')
    assert run.log.metrics == int8['metrics']
    assert isinstance(build_student(run, 'cpu'), ONNXSegmentor)
    assert 'ONNX, INT8' in '\n'.join(export_student.table(found))


def test_file_that_disagrees_is_not_left_behind(training, monkeypatch, capsys):
    def spoiled(model, file, *args, **kwargs):
        other = copy.deepcopy(model)
        torch.nn.init.normal_(other.decode_head.conv_seg.weight)
        export_onnx(other, file, *args, **kwargs)

    monkeypatch.setattr('mmbckd.deploy.export_onnx', spoiled)
    assert export('--out', 'out') == 1
    assert not list((training / 'out').iterdir())
    assert 'It is not kept' in capsys.readouterr().err


@pytest.mark.parametrize('power_of_two, least', [(True, 99.9), (False, 98)])
def test_file_of_powers_of_two_has_to_agree_better(
    power_of_two, least, training, monkeypatch, capsys
):
    config = Config.fromfile('run.py')
    config.model = dict(
        type='mmrazor.QuantizationAwareTraining',
        architecture=config.model.architecture,
        quantize=dict(power_of_two_scales=power_of_two),
    )
    config.dump('run.py')
    model = build(copy.deepcopy(config.model.architecture))
    quantization = FakeQuantization(model, power_of_two_scales=power_of_two)
    quantization.calibrate([torch.rand(1, 3, 32, 64)])
    torch.save(
        dict(
            state_dict={
                f'{prefix}.{key}': value
                for prefix, module in (
                    ('architecture', model),
                    ('quantization', quantization),
                )
                for key, value in module.state_dict().items()
            }
        ),
        'run.pth',
    )

    def spoiled(quantization, *args, **kwargs):
        torch.nn.init.normal_(quantization.model.decode_head.conv_seg.weight)
        export_qdq(quantization, *args, **kwargs)
        quantization.model.load_state_dict(model.state_dict())

    monkeypatch.setattr('mmbckd.deploy.export_qdq', spoiled)
    assert export('--out', 'out') == 1
    assert f'at least {least}% of the labels' in capsys.readouterr().err
    assert not (training / 'out' / 'run_int8.onnx').exists()


@pytest.mark.parametrize(
    'change, options, match',
    [
        (
            dict(model=cnn_segmentor(base_channels=16)),
            [],
            'checkpoint of the model in this config',
        ),
        (dict(train_dataloader=None), ['--int8'], '`train_dataloader`'),
        (dict(val_dataloader=None), [], '`val_dataloader`'),
        ({}, ['--cfg-options', 'val_dataloader.dataset.data_root=no'], '`val'),
        ({}, ['--int8', '--exclude', 'nothing'], "but got 'nothing'"),
        ({}, ['--activations', 'int8'], 'Expected --int8 beside --activ'),
        ({}, ['--opset', '99'], 'Expected an `opset` .* got 99. Take'),
        (
            {},
            [
                '--shape',
                '64',
                '64',
                '--cfg-options',
                'model.architecture.test_cfg.mode=slide',
                'model.architecture.test_cfg.crop_size=(32,32)',
                'model.architecture.test_cfg.stride=(16,16)',
            ],
            r'the windows that .* \(32, 32\) .* got \(64, 64\)',
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(change, options, match, training):
    config = Config.fromfile('run.py')
    for key, value in change.items():
        config.pop(key)
        config[key] = value
    config.dump('run.py')
    message = export(*options, '--out', 'out')
    assert re.search(match, message)
    assert message.startswith('export_student: error: Expected ')


def test_config_of_ones_own_is_not_replaced(training):
    """As the student's, if it lies where the files are to go."""
    before = (training / 'run.py').read_text()
    shutil.copy('run.py', 'run_int8.py')
    (training / 'other.py').write_text(before.replace('run.py', 'other.py'))
    for options, name in (
        ([], 'run.py'),
        (['--name', 'other'], 'other.py'),
        (['--name', 'run', '--out', '../' + training.name], 'run.py'),
    ):
        message = export('--out', '.', *options)
        assert 'config of your own' in message and name in message
    assert (training / 'run.py').read_text() == before
    # What an earlier export wrote may be written again.
    assert not export('--out', 'out', '--num-images', '1')
    assert not export('--out', 'out', '--num-images', '1')


def test_distillation_in_a_pure_python_config_is_exported(training):
    text = (training / 'run.py').read_text()
    for name, scope, module in (
        ('FrozenTeacherDistill', 'mmrazor.', 'mmbckd.models.algorithms'),
        ('LoadAnnotations', '', 'mmseg.datasets.transforms'),
    ):
        assert f"type='{scope}{name}'" in text
        text = text.replace(f"type='{scope}{name}'", f'type={name}')
        text = f'from {module} import {name}\n{text}'
    (training / 'run.py').write_text(text)
    assert not export('--out', 'out', '--num-images', '1')
    assert 'ONNXSegmentor' in (training / 'out/run.py').read_text()


def test_least_agreement_may_be_0(training):
    given = '--int8', '--num-images', '1', '--exclude', 'decode_head.conv_seg'
    with pytest.MonkeyPatch.context() as patch:
        limits = []
        patch.setattr(
            export_student,
            'keep_if_equal',
            lambda part, file, found, *least: (
                limits.append(least[0]) or part.replace(file)
            ),
        )
        assert not export('--out', 'out', *given, '--min-int8-agreement', '0')
    assert limits == [99.9, 0]


def test_file_of_a_detector_with_values_that_are_not_finite_is_not_kept(
    tmp_path,
):
    part = tmp_path / 'a.part.onnx'
    part.touch()
    found = Comparison(images=8, max_difference=np.inf, agreement=None)
    with pytest.raises(export_student.Disagreement, match='not finite'):
        export_student.keep_if_equal(part, tmp_path / 'a.onnx', found, 90)
    assert not (tmp_path / 'a.onnx').exists()


def onnx_segmentor(file, **kwargs):
    model = MODELS.build(dict(type='ONNXSegmentor', _scope_='mmseg', **kwargs))
    load_checkpoint(model, str(file))
    return model.eval()


def step(model, image):
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    data = model.data_preprocessor(dict(inputs=[planes]), False)
    with torch.no_grad():
        return model.predict(data['inputs'])[0]


def test_windows_slide_over_an_image_as_in_pytorch(tmp_path):
    test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    config = cnn_segmentor()
    config['test_cfg'] = test_cfg
    model = build(config)
    export_onnx(model, tmp_path / 'a.onnx', (32, 32))
    (image,) = pictures(64, 48, count=1)
    exported = onnx_segmentor(
        tmp_path / 'a.onnx',
        test_cfg=test_cfg,
        data_preprocessor=config['data_preprocessor'],
    )
    assert isinstance(exported, ONNXSegmentor)
    found, truth = (
        step(x, image).seg_logits.data.numpy() for x in (exported, model)
    )
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_every_backend_gives_the_logits_of_pytorch(backend, tmp_path):
    config = cnn_segmentor()
    model = build(config)
    export_onnx(model, tmp_path / 'a.onnx', (32, 64))
    exported = onnx_segmentor(
        tmp_path / 'a.onnx',
        backend=backend,
        data_preprocessor=config['data_preprocessor'],
    )
    images = torch.randn(2, 3, 32, 64)
    meta = dict(img_shape=(32, 64), ori_shape=(32, 64), pad_shape=(32, 64))
    with torch.no_grad():
        truth = model.encode_decode(images, [meta] * 2)
    found = exported.encode_decode(images, [meta] * 2)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_labels_of_a_file_are_the_prediction(tmp_path):
    config = cnn_segmentor()
    model = build(config)
    export_onnx(
        model,
        tmp_path / 'a.onnx',
        (32, 64),
        Interface('uint8', 'rgb', 'labels'),
    )
    (image,) = pictures(32, 64, count=1)
    exported = onnx_segmentor(
        tmp_path / 'a.onnx',
        data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True),
    )
    found, truth = (
        step(x, image).pred_sem_seg.data.numpy() for x in (exported, model)
    )
    assert (found == truth).mean() > 0.999


def test_mistakes_are_explained(tmp_path):
    config = cnn_segmentor()
    config['data_preprocessor'].update(mean=[1.0] * 3, std=[2.0] * 3)
    model = build(config)
    export_onnx(model, tmp_path / 'a.onnx', (32, 64))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    (tmp_path / 'cut.onnx').write_bytes(b'x')
    right = config['data_preprocessor']
    wrong = dict(type='SegDataPreProcessor', mean=[1.0] * 3, std=[9.0] * 3)
    for name, preprocessor, backend, match in (
        (
            *('a.onnx', wrong, 'onnxruntime'),
            r'gives what the ONNX file takes.*std=\[2.0',
        ),
        ('a.pth', right, 'onnxruntime', 'but got the weights of a PyTorch'),
        ('cut.onnx', right, 'onnxruntime', 'ONNX Runtime cannot open'),
        ('cut.onnx', right, 'openvino', 'OpenVINO cannot open'),
        ('a.onnx', right, 'tensorrt', "'openvino'.* but got 'tensorrt'"),
    ):
        with pytest.raises(ValueError, match=match):
            onnx_segmentor(
                tmp_path / name,
                backend=backend,
                data_preprocessor=preprocessor,
            )
    exported = onnx_segmentor(tmp_path / 'a.onnx', data_preprocessor=right)
    with pytest.raises(ValueError, match='32x64.* but got 64x64.*--shape 64'):
        step(exported, pictures(64, 64)[0])


def test_file_is_no_checkpoint_of_an_ordinary_model(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, 'ONNX_MODELS', WeakSet())
    (tmp_path / 'a.onnx').touch()
    model = MODELS.build(cnn_segmentor())
    with pytest.raises(ValueError, match=r'only an ONNXSegmentor.*/a\.py'):
        load_checkpoint(model, str(tmp_path / 'a.onnx'))
