"""What step_cost says of a training, against counts made in other ways."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmrazor.registry import MODELS
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmbckd.analysis.step_cost import (
    cost_key,
    counting,
    step_cost,
    training_size,
)
from tests.detectors import detector
from tests.segmentors import NUM_CLASSES, cnn_segmentor, query_segmentor

ROOT = Path(__file__).parents[2]


def training(model: dict, **kwargs) -> Config:
    """The config of a training of 30 iterations with batches of 6."""
    return Config(
        dict(
            default_scope='mmseg',
            model=model,
            train_dataloader=dict(batch_size=6, dataset=dict()),
            train_cfg=dict(max_iters=30),
            optim_wrapper=dict(type='OptimWrapper'),
            **kwargs,
        )
    )


def distillation() -> dict:
    return dict(
        type='mmrazor.FrozenTeacherDistill',
        architecture=cnn_segmentor(dropout=0),
        teacher=cnn_segmentor(base_channels=16),
        teacher_ckpt='nowhere.pth',
        distiller=dict(
            type='BCKDDistiller',
            boundary=dict(student='backbone', teacher='decode_head.conv_seg'),
            logits=dict(type='ChannelWiseDivergence'),
        ),
    )


def convolutions(model: nn.Module, size: tuple) -> list[int]:
    """Multiply-adds of each convolution, for one image."""
    counts = []

    def count(conv: nn.Conv2d, _, out: torch.Tensor) -> None:
        counts.append(out[0].numel() * conv.weight[0].numel())

    for each in model.modules():
        if isinstance(each, nn.Conv2d):
            each.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, *size))
    return counts


def test_flops_are_those_of_the_convolutions():
    cost = step_cost(training(distillation()))
    student, teacher = (
        MODELS.build(cnn_segmentor(base_channels=width)) for width in (8, 16)
    )
    assert cost['size'] == [64, 64]
    for name, model in (('student', student), ('teacher', teacher)):
        assert cost[name] == dict(
            parameters=sum(p.numel() for p in model.parameters()),
            flops=sum(convolutions(model, (64, 64))),
        )
    # Of a backward pass every convolution has two products, but for the
    # first, whose input is the image.
    alone = step_cost(training(cnn_segmentor(dropout=0)))
    counts = convolutions(
        MODELS.build(cnn_segmentor(base_channels=8)), (64, 64)
    )
    assert alone['flops']['backward'] == 2 * sum(counts) - counts[0]
    assert alone['flops']['step'] == 3 * sum(counts) - counts[0]
    assert alone['teacher'] is None and not alone['losses']

    # The boundary head: two convolutions of each stage, the second of them
    # before its result is resized.
    head = sum(
        side**2 * 32 * (8 * 2**i + 1) for i, side in enumerate((16, 8, 4, 2))
    )
    assert cost['losses']['loss_bd']['flops'] == head
    assert cost['losses']['loss_cwd']['flops'] == 0
    assert cost['flops']['backward_distillation'] == 2 * head
    assert cost['flops']['step'] == (
        cost['teacher']['flops'] + alone['flops']['step'] + 3 * head
    )


@pytest.fixture
def with_values(monkeypatch):
    """The forward pass is computed where shapes would do."""

    def values_are_needed(*args):
        raise RuntimeError

    monkeypatch.setattr(
        'mmbckd.analysis.step_cost.cost.shapes_of_step', values_are_needed
    )


def saved(losses: list, weights: set) -> int:
    """Bytes of the storages that the graph of some losses holds."""
    found, seen = {}, set()
    nodes = [loss.grad_fn for loss in losses]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        held = list(getattr(node, 'saved_tensors', ()))
        for name in dir(node):
            if name.startswith('_saved_'):
                value = getattr(node, name)
                held += value if isinstance(value, (list, tuple)) else [value]
        for each in held:
            # Python's numbers, such as the weight of a loss, take 8 bytes.
            if isinstance(each, torch.Tensor) and each.nbytes != 8:
                storage = each.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(size for key, size in found.items() if key not in weights)


def test_activations_are_what_the_graph_holds(monkeypatch, with_values):
    held = []
    backward = counting._backward

    def walk(model, losses, counter):
        weights = {
            each.untyped_storage().data_ptr()
            for each in (*model.parameters(), *model.buffers())
        }
        losses = {k: v for k, v in losses.items() if v.requires_grad}
        held.append(saved(losses.values(), weights))
        return backward(model, losses, counter)

    monkeypatch.setattr(counting, '_backward', walk)
    cost = step_cost(training(distillation()))
    # Of a batch of 6, told from one of 2.
    assert cost['activations'] == 3 * held[0]
    alone = step_cost(training(cnn_segmentor(dropout=0)))
    losses = sum(loss['activations'] for loss in cost['losses'].values())
    assert cost['activations'] == alone['activations'] + losses


@pytest.mark.parametrize(
    'name, gpus, kwargs',
    [
        ('student_4xb6-30_data-64x64', 4, {}),
        ('student', 1, {}),
        ('student', 2, dict(auto_scale_lr=dict(base_batch_size=12))),
    ],
)
def test_hours_are_those_of_all_images(tmp_path, name, gpus, kwargs):
    file = tmp_path / f'{name}.py'
    training(cnn_segmentor(), **kwargs).dump(file)
    cost = step_cost(Config.fromfile(file), tflops=2.5)
    seconds = 2 * cost['flops']['step'] * 30 * 6 * gpus / 2.5e12
    assert cost['gpu_hours'] == pytest.approx(seconds / 3600)
    assert (cost['gpus'], cost['batch'], cost['iterations']) == (gpus, 6, 30)


def test_detector_trained_for_epochs_of_a_data_set():
    config = training(detector())
    config.default_scope = 'mmdet'
    config.train_cfg = dict(max_epochs=3)
    config.train_dataloader.dataset = dict(
        type='RepeatDataset',
        dataset=dict(
            type='CocoDataset',
            pipeline=[
                dict(type='Resize', scale=(512, 256)),
                dict(type='RandomChoiceResize', scales=[(96, 64), (128, 96)]),
                dict(type='RandomFlip', prob=0.5),
            ],
        ),
    )
    cost = step_cost(config)
    assert cost['size'] == [96, 128]
    assert cost['iterations'] == 3 * 117266 // 6
    config.train_dataloader.dataset.dataset.type = 'MyDataset'
    with pytest.raises(ValueError, match='MyDataset.*--images'):
        step_cost(config)
    assert step_cost(config, images=60)['iterations'] == 30


def test_detector_trained_without_masks_is_given_none():
    """RTMDet's assigner would take them for tensors."""
    config = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    assert step_cost(config, size=(64, 64))['flops']['backward'] > 0


def test_quantized_training_has_the_products_of_that_in_float():
    (path,) = (ROOT / 'configs/qat').glob('qat_*.py')
    config = Config.fromfile(path)
    quantized = step_cost(config)
    config.model = config.model.architecture
    in_float = step_cost(config)
    assert quantized['student'] == in_float['student']
    # The scale of the image learns: the first convolution, 3 to 32 channels
    # at half the size, has a gradient for its input.
    extra = quantized['flops']['backward'] - in_float['flops']['backward']
    assert extra == 32 * 3 * 3**2 * 90 * 120


def test_last_transform_of_an_epoch_says_the_size_of_an_image():
    config = get_config('mmdet::yolox/yolox_s_8xb8-300e_coco.py')
    assert training_size(config, None) == (640, 640)


def test_config_that_trains_nothing_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"without \['train_dataloader'"):
        step_cost(Config(dict(model=cnn_segmentor())))
    without_size = training(cnn_segmentor())
    del without_size.model.data_preprocessor['size']
    without_size.model.data_preprocessor.size_divisor = 32
    with pytest.raises(ValueError, match='--size'):
        step_cost(without_size)
    neither = training(dict(type='mmseg.ResNet', depth=18))
    with pytest.raises(ValueError, match='segmentor or a detector.*ResNet'):
        step_cost(neither)


def test_tool_writes_what_tables_are_made_of(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import step_cost as tool

    training(distillation()).dump(tmp_path / 'bckd_2xb6.py')
    training(cnn_segmentor(num_classes=NUM_CLASSES)).dump(tmp_path / 'one.py')
    out = tmp_path / 'new' / 'step_cost.json'
    paths = [str(tmp_path / name) for name in ('bckd_2xb6.py', 'one.py')]
    argv = ['step_cost', *paths, '--size', '32', '64', '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', argv)
    tool.main()
    assert 'not measured' in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert [row['config'] for row in found['rows']] == ['bckd_2xb6', 'one']
    lines = tool.table(found)
    assert '32x64' in lines[2] and '2x6' in lines[2] and '—' in lines[3]

    (tmp_path / 'empty.py').write_text('model = None\n')
    monkeypatch.setattr(sys, 'argv', ['step_cost', str(tmp_path / 'empty.py')])
    with pytest.raises(SystemExit, match='empty.py: Expected the config of'):
        tool.main()


def test_head_that_is_run_by_itself_is_the_teachers():
    """Of a teacher that classifies masks, the head is called past forward."""
    queries = dict(type='MaskClassLogits', source='decode_head')
    distilled = dict(
        distillation(),
        teacher=query_segmentor(),
        distiller=dict(
            type='BCKDDistiller',
            logits=dict(teacher=queries, type='ChannelWiseDivergence'),
        ),
    )
    alone = step_cost(training(cnn_segmentor(dropout=0)))
    cost = step_cost(training(distilled))
    assert cost['student'] == alone['student']


@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_what_is_not_computed_does_not_count(monkeypatch, request, kind):
    """The counts are those of a step that is computed to its end."""
    config = training(distillation())
    if kind == 'detector':
        config = training(detector())
        config.default_scope = 'mmdet'

    def cost():
        torch.manual_seed(0)
        return step_cost(config, size=(64, 96))

    told = cost()
    request.getfixturevalue('with_values')
    assert cost() == told
    monkeypatch.setattr(counting, '_PRODUCTS', set())
    assert cost() == told


def test_nothing_of_a_segmentor_is_computed(monkeypatch):
    whole = counting.run_step
    modes = []

    def step(*args):
        modes.append(args[-1])
        return whole(*args)

    monkeypatch.setattr(counting, 'run_step', step)
    step_cost(training(distillation()))
    assert len(modes) == 1 and isinstance(modes[0], FakeTensorMode)


def test_detector_that_resizes_its_batches_runs_as_in_its_first_iteration():
    MessageHub.get_instance('cost of a detector')
    config = get_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    cost = step_cost(config, size=(64, 96))
    # Backward is twice forward, but for the gradient of the image.
    stem = 12 * 24 * 9 * 32 * 48
    forward = cost['student']['flops']
    assert cost['flops']['step'] == 3 * forward - stem


def test_pixels_that_are_chosen_by_their_loss_are_computed():
    chosen = cnn_segmentor(dropout=0)
    sampler = dict(type='OHEMPixelSampler', thresh=0.9, min_kept=8)
    chosen['decode_head']['sampler'] = sampler
    alone = step_cost(training(cnn_segmentor(dropout=0)))
    cost = step_cost(training(chosen))
    assert cost['flops'] == alone['flops']


def test_key_is_that_of_what_costs(tmp_path):
    def key(changes=(), **options):
        config = training(distillation())
        config.merge_from_dict(dict(changes))
        return cost_key(config, **options)

    for same in (
        {'model.teacher_ckpt': 'elsewhere.pth'},
        {'model.distiller.boundary.loss_weight': 3.0},
        {'train_dataloader.dataset.data_root': 'elsewhere'},
        {'optim_wrapper.clip_grad': dict(max_norm=1)},
    ):
        assert key(same) == key(), same
    for other in (
        {'train_dataloader.batch_size': 4},
        {'train_dataloader.dataset.pipeline': [dict(type='Resize')]},
        {'train_cfg.max_iters': 31},
        {'model.distiller.context': dict(tau=1)},
    ):
        assert key(other) != key(), other
    assert key(size=(32, 32)) != key() != key(batch_size=3)

    # A teacher's file counts by what it says, not by where it lies.
    files = [tmp_path / name for name in ('a.py', 'b.py')]
    for file in files:
        Config(dict(model=cnn_segmentor())).dump(file)
    first, second = (key({'model.teacher': str(file)}) for file in files)
    assert first == second
    Config(dict(model=cnn_segmentor(base_channels=32))).dump(files[1])
    assert key({'model.teacher': str(files[1])}) != first


def test_tool_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import step_cost as tool

    ran = []

    def cost(config, tflops, **options):
        ran.append(Path(config.filename).stem)
        if config.model.get('broken'):
            raise RuntimeError('No such layer.\nAt line 3.')
        return dict(
            key=cost_key(config, **options),
            measured_batch=2,
            tflops=tflops,
            gpu_hours=8.0,
        )

    monkeypatch.setattr(tool, 'step_cost', cost)
    monkeypatch.setattr(tool, 'show', lambda row: None)
    for name, changes in dict(
        first={}, broken={'model.broken': True}, last={}
    ).items():
        config = training(cnn_segmentor())
        config.merge_from_dict(changes)
        config.dump(tmp_path / f'{name}.py')
    out = tmp_path / 'costs.json'

    def run(*options):
        ran.clear()
        argv = ['step_cost', '--out', str(out), *options]
        argv += [
            str(tmp_path / f'{n}.py') for n in ('first', 'broken', 'last')
        ]
        monkeypatch.setattr(sys, 'argv', argv)
        with pytest.raises(SystemExit, match=r'broken.py: No such layer'):
            tool.main()
        rows = json.loads(out.read_text())['rows']
        return {row.pop('config'): row for row in rows}

    rows = run()
    assert ran == ['first', 'broken', 'last']
    assert rows['broken'] == dict(error='No such layer.')
    assert len(out.read_text().splitlines()) == 2 + 3
    # Rates only scale the hours.
    assert run('--tflops', '20')['last']['gpu_hours'] == 4.0
    assert ran == ['broken']
    assert run()['last'] == rows['last']

    changed = training(cnn_segmentor(base_channels=16))
    changed.dump(tmp_path / 'last.py')
    assert run()['last']['key'] != rows['last']['key']
    assert ran == ['broken', 'last']
    run('--size', '32', '32')
    assert ran == ['first', 'broken', 'last']


def test_grouped_convolution_costs_as_much_backward_as_twice_forward():
    """PyTorch's own formula leaves the groups out of it."""
    image = torch.zeros(2, 8, 6, 6, requires_grad=True)
    convolutions = [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4),
    ]
    for convolution in convolutions:
        with counting.flop_counter() as counter:
            out = convolution(image)
        forward = counter.get_total_flops()
        kernel = convolution.weight.numel()
        places = 6 * 6  # both visit every pixel with the whole kernel
        assert forward == 2 * 2 * places * kernel
        with counting.flop_counter() as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 2 * forward
