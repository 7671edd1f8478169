"""What new_config writes trains, and is what this package's own configs are
where they have the same models."""

import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmbckd.models.utils import build_model
from mmbckd.new_config import write_config
from mmbckd.new_config.choice import TO_BE_SET, Choice
from mmbckd.new_config.stages import read_stages
from tests import test_configs, test_configs_mmdet
from tests.config_walk import BCKD, Witness
from tests.data_layouts import write_cityscapes
from tests.data_layouts_coco import write_coco
from tests.detectors import query_detector
from tests.segmentors import (
    NUM_CLASSES,
    cnn_segmentor,
    dilated_segmentor,
    query_segmentor,
)

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/new_config.py'
CONFIGS = ROOT / 'configs'
MMSEG = Path(mmseg.__file__).parent / '.mim/configs'
PUBLISHED = 'https://'  # by OpenMMLab or the maintained fork
SCHEDULE = '4xb2-80k_cityscapes-512x1024.py'
# Trained from scratch by upstream.
FAST_SCNN = 'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data_sets')
    write_cityscapes(root / 'data/cityscapes')
    write_coco(root / 'data/coco', train=2, val=2)
    return root


@pytest.fixture(autouse=True)
def _here(tmp_path, data, monkeypatch):
    (tmp_path / 'data').symlink_to(data / 'data')
    monkeypatch.chdir(tmp_path)
    load = PretrainedInit.__call__

    def load_file(self, module):
        if Path(self.checkpoint).is_file():  # and not a download
            load(self, module)

    monkeypatch.setattr(PretrainedInit, '__call__', load_file)


def write_plain(file, model, **more):
    """A config of a plain model without data, as a text file."""
    Config(dict(default_scope='mmseg', model=model, **more)).dump(file)
    return str(file)


def train_a_step(written, smaller, folder):
    """One iteration of the real runner on the written config."""
    witness = Witness()
    cfg = smaller(Path(written.file), folder)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(witness)
    runner.train()
    return witness


# On pairs that no config names


@pytest.mark.parametrize(
    'student, teacher, losses',
    [
        (
            f'fcn/fcn_r18-d8_{SCHEDULE}',
            f'upernet/upernet_r50_{SCHEDULE}',
            BCKD | {'loss_cwd'},
        ),
        # From scratch. The teacher has a cascade of heads.
        (
            'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
            'ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py',
            BCKD,
        ),
        # From scratch.
        (
            'stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
            'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
            BCKD,
        ),
        # Its backbone puts out more in training.
        (
            'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
            f'fcn/fcn_r18-d8_{SCHEDULE}',
            BCKD | {'loss_cwd'},
        ),
    ],
    ids=['fcn-upernet', 'bisenetv2-ocrnet', 'stdc-segformer', 'ddrnet-fcn'],
)
def test_segmentors_that_no_config_names_train(
    student, teacher, losses, tmp_path
):
    written = write_config(f'mmseg::{student}', f'mmseg::{teacher}')
    assert written.file == f'bckd_{Path(student).name}'
    assert not written.todo
    assert Config.fromfile(written.file).model.teacher_ckpt.startswith(
        PUBLISHED
    )
    witness = train_a_step(written, test_configs.one_small_step, tmp_path)
    witness.check_losses(losses)


def test_student_from_scratch_learns_features_of_a_mask2former(tmp_path):
    teacher = write_plain('queries.py', query_segmentor(num_classes=19))
    written = write_config(f'mmseg::{FAST_SCNN}', teacher)
    assert not any('by hand' in task for task in written.todo)
    witness = train_a_step(written, test_configs.one_small_step, tmp_path)
    witness.check_losses(BCKD)
    assert {compared: maps[:2] for compared, maps in witness.maps.items()} == {
        ('loss_bd', 'student'): ('ModuleOutputs', 'backbone'),
        ('loss_bd', 'teacher'): ('MaskClassLogits', 'decode_head'),
        ('loss_cd', 'student'): ('ModuleInputs', 'decode_head.conv_seg'),
        # Its masks are products of this map, as the logits of a classifier
        # are of what it takes in.
        ('loss_cd', 'teacher'): (
            'ModuleOutputs',
            'decode_head.pixel_decoder',
        ),
    }


def test_student_begins_at_the_weights_that_its_config_loads(tmp_path):
    cfg = Config.fromfile(MMSEG / FAST_SCNN)
    with DefaultScope.overwrite_default_scope('mmseg'):
        weights = build_model(cfg.model).state_dict()
    torch.save(weights, 'fast_scnn.pth')
    student = Path('student.py')
    student.write_text(
        f"_base_ = 'mmseg::{FAST_SCNN}'\n"
        "load_from = '{{fileDirname}}/fast_scnn.pth'\n"
        'optim_wrapper = dict(optimizer=dict(lr=0.0, weight_decay=0.0))\n'
        'param_scheduler = None\n'
    )
    written = write_config(str(student), f'mmseg::fcn/fcn_r18-d8_{SCHEDULE}')
    witness = train_a_step(written, test_configs.one_small_step, tmp_path)
    witness.check_losses(BCKD | {'loss_cwd'})
    for name, parameter in witness.student.named_parameters():
        assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize(
    'student, teacher',
    [
        ('retinanet/retinanet_r18_fpn_1x_coco', 'atss/atss_r50_fpn_1x_coco'),
        # Levels of strides 8 to 32 on one side, 8 to 128 on the other.
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco', 'atss/atss_r50_fpn_1x_coco'),
    ],
    ids=['retinanet-atss', 'rtmdet-atss'],
)
def test_detectors_that_no_config_names_train(student, teacher, tmp_path):
    written = write_config(f'mmdet::{student}.py', f'mmdet::{teacher}.py')
    cfg = Config.fromfile(written.file)
    upstream = [hook['type'] for hook in cfg.custom_hooks[:-3]]
    # They see another model than they were written for.
    assert len(written.todo) == len(upstream[:1])
    assert all(hook in written.todo[0] for hook in upstream)
    witness = train_a_step(
        written, test_configs_mmdet.one_small_step, tmp_path
    )
    witness.check_losses({'loss_bd', 'loss_cd'})


def test_head_that_needs_a_large_image_is_read():
    """LRASPP pools by a kernel of 49 pixels of stride 8."""
    cfg = Config.fromfile(
        MMSEG
        / 'mobilenet_v3'
        / 'mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py'
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        stages = read_stages(build_model(cfg.model, cfg.data_preprocessor))
    assert stages.features == [(128, 2)]
    assert stages.logits == [(19, 2)]
    assert not stages.problems.keys() - {'neck'}


def test_vision_transformer_of_one_size_is_read():
    """Its positions fit no other."""
    config = cnn_segmentor()
    config.pop('neck')
    config['backbone'] = dict(
        type='BEiT',
        img_size=(96, 96),
        embed_dims=16,
        num_layers=1,
        num_heads=2,
        out_indices=(0,),
    )
    config['decode_head'].update(
        in_channels=[16], in_index=[0], feature_strides=[16]
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        stages = read_stages(build_model(config))
    assert stages.backbone == [(16, 16)]
    assert stages.logits == [(NUM_CLASSES, 16)]


def test_images_may_have_more_than_three_channels():
    config = cnn_segmentor()
    config['backbone'].update(in_channels=4)
    with DefaultScope.overwrite_default_scope('mmseg'):
        stages = read_stages(build_model(config))
    assert [m.stride for m in stages.backbone] == [4, 8, 16, 32]


def test_detector_that_needs_a_large_image_is_read():
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent / '.mim/configs/ssd/ssd300_coco.py'
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        stages = read_stages(build_model(cfg.model))
    assert [m.channels for m in stages.backbone] == [512, 1024]


# On pairs of the zoo

# One of each, by the name of the teacher. A backbone alone has no classes to
# choose by. Of the students from scratch, the one with the default max_tokens.
FAMILIES = {
    ' of '.join([path.parent.name.partition('_')[0], path.parts[-3]]): path
    for path in sorted(
        [
            *CONFIGS.glob('mmseg/*/bckd-cwd_*cityscapes*.py'),
            *CONFIGS.glob('mmseg/*/bckd-features_*_ddrnet_23-slim_*.py'),
            *CONFIGS.glob('mmdet/*/bckd_*_coco.py'),
            *CONFIGS.glob('mmdet/*/bckd_*_coco_instance.py'),
        ]
    )
    if not path.parent.name.startswith('dinov2')
}


@pytest.mark.parametrize('family', FAMILIES)
def test_pairs_of_the_zoo_get_what_their_configs_have(family):
    """The student stands for its larger teacher too, unless that classifies
    masks."""
    cfg = Config.fromfile(FAMILIES[family])
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        student = build_model(
            cfg.model.architecture, cfg.get('data_preprocessor')
        )
        teacher = student
        if family == 'mask2former of mmseg':
            teacher = build_model(query_segmentor(num_classes=19))
        if family == 'mask2former of mmdet':
            teacher = build_model(query_detector(num_classes=80))
    choice = Choice(
        cfg.default_scope,
        student,
        teacher,
        pretrained='bckd-features_' not in FAMILIES[family].name,
    )
    assert not choice.todo
    assert choice.distiller == cfg.model.distiller.to_dict()


# What a config says

KAIMING = dict(type='Kaiming', layer='Conv2d')
WEIGHTS = dict(type='Pretrained', checkpoint='weights.pth')


@pytest.fixture
def pair(tmp_path):
    """A student and a teacher as files in folders of their own."""
    for side in ('students', 'teachers'):
        (tmp_path / side).mkdir()
    hooks = [dict(type='EMAHook'), dict(type='ChannelsLastHook')]
    return (
        write_plain(
            'students/small.py', cnn_segmentor(dropout=0), custom_hooks=hooks
        ),
        write_plain('teachers/large.py', dilated_segmentor()),
    )


@pytest.mark.parametrize(
    'options, is_pretrained',
    [
        ({}, False),
        ({'model.pretrained': None}, False),
        ({'model.pretrained': 'open-mmlab://resnet18_v1c'}, True),
        ({'model.backbone.init_cfg': KAIMING}, False),
        ({'model.backbone.init_cfg': dict(WEIGHTS, checkpoint='')}, False),
        ({'model.backbone.init_cfg': WEIGHTS}, True),
        ({'model.backbone.init_cfg': [KAIMING, WEIGHTS]}, True),
        ({'model.init_cfg': WEIGHTS}, True),
        ({'load_from': 'small.pth'}, True),
    ],
)
def test_recipe_depends_on_whether_the_student_is_pretrained(
    options, is_pretrained, pair
):
    student, teacher = pair
    cfg = Config.fromfile(student)
    cfg.merge_from_dict(options)
    cfg.dump(student)
    written = write_config(student, teacher)
    distiller = Config.fromfile(written.file).model.distiller
    assert set(distiller) == {
        'type',
        'boundary',
        'context',
        *(['logits'] if is_pretrained else []),
    }
    assert distiller.boundary.student == (
        'decode_head.conv_seg' if is_pretrained else 'backbone'
    )
    comment = '# No pretrained weights: '
    assert (comment in Path(written.file).read_text()) != is_pretrained


def test_config_loads_from_anywhere_and_moves_with_its_files(
    pair, tmp_path, monkeypatch
):
    write_config(*pair, out='students/bckd.py')
    monkeypatch.chdir('/')
    moved = tmp_path.rename(tmp_path.with_name('moved'))
    cfg = Config.fromfile(moved / 'students/bckd.py')
    assert cfg.model.architecture.decode_head.num_classes == NUM_CLASSES
    assert Path(cfg.model.teacher).samefile(moved / 'teachers/large.py')
    assert [hook['type'] for hook in cfg.custom_hooks] == [
        'EMAHook',
        'ChannelsLastHook',
        'DataCheckHook',
        'IterationSeedHook',
        'StudentCheckpointHook',
    ]
    moved.rename(tmp_path)


def test_hooks_that_may_not_know_a_distillation_are_named(pair):
    (task,) = (t for t in write_config(*pair).todo if 'as the model' in t)
    assert 'EMAHook' in task and 'ChannelsLastHook' not in task


def test_absent_checkpoint_is_said_and_refused(pair):
    written = write_config(*pair)
    assert any('teacher_ckpt' in task for task in written.todo)
    cfg = Config.fromfile(written.file)
    with (
        DefaultScope.overwrite_default_scope('mmseg'),
        pytest.raises(FileNotFoundError, match='teacher_ckpt'),
    ):
        build_model(cfg.model)


def test_checkpoint_has_to_be_the_teachers(pair):
    student, teacher = pair
    with pytest.raises(FileNotFoundError, match='absent.pth'):
        write_config(*pair, teacher_ckpt='absent.pth')
    states = {
        side: build_model(Config.fromfile(file).model).state_dict()
        for side, file in (('student', student), ('teacher', teacher))
    }
    for side, state_dict in states.items():
        torch.save(state_dict, f'{side}.pth')
    with pytest.raises(ValueError, match='is not of the teacher'):
        write_config(*pair, teacher_ckpt='student.pth')
    assert not list(Path().glob('*.py'))
    written = write_config(*pair, teacher_ckpt='teacher.pth')
    assert 'teacher_ckpt' not in ''.join(written.todo)
    build_model(Config.fromfile(written.file).model)


@pytest.mark.parametrize(
    'load_from, came',
    [
        (None, 'it puts out a tensor of shape'),
        ('weights.pth', 'its PointHead has no `conv_seg`'),
    ],
    ids=['from-scratch', 'pretrained'],
)
def test_what_no_rule_finds_is_left_to_be_set_and_refused(load_from, came):
    """Tokens instead of maps, and a head without classifier."""
    model = dilated_segmentor()
    model['backbone'] = dict(
        type='VisionTransformer',
        img_size=64,
        embed_dims=64,
        num_layers=1,
        num_heads=1,
        out_indices=0,
        output_cls_token=True,
        with_cls_token=True,
    )
    head = model['decode_head']
    del head['num_convs'], head['concat_input']
    head.update(type='PointHead', in_index=[0], in_channels=[64])
    student = write_plain('tokens.py', model, load_from=load_from)
    teacher = write_plain('maps.py', dilated_segmentor())
    written = write_config(student, teacher)
    for key, reason in (
        ('boundary.student', came),
        ('context.student', 'its PointHead has no `conv_seg`'),
    ):
        (task,) = (task for task in written.todo if f'`{key}`' in task)
        assert reason in task
    cfg = Config.fromfile(written.file)
    assert cfg.model.distiller.boundary.student == TO_BE_SET
    cfg.model.teacher_ckpt = None
    with pytest.raises(ValueError, match=f'no module "{TO_BE_SET}"'):
        build_model(cfg.model)


@pytest.mark.parametrize('load_from', [None, 'weights.pth'])
def test_binary_logits_of_one_channel_are_left_to_be_set(load_from):
    """A softmax over them is 1 everywhere: a loss would teach nothing."""
    model = cnn_segmentor(num_classes=2)
    model['decode_head']['out_channels'] = 1
    model['decode_head']['loss_decode'] = dict(
        type='CrossEntropyLoss', use_sigmoid=True
    )
    student = write_plain('small.py', model, load_from=load_from)
    teacher = write_plain('large.py', model)
    written = write_config(student, teacher)
    (task,) = (t for t in written.todo if '`boundary.teacher`' in t)
    assert 'puts out 1 channel' in task and 'out_channels=2' in task
    cfg = Config.fromfile(written.file)
    assert cfg.model.distiller.boundary.teacher == TO_BE_SET


def test_weights_of_a_dumped_pure_python_config_count(pair):
    student = Config.fromfile(pair[0])
    student.model.backbone.init_cfg = dict(
        type='mmengine.model.PretrainedInit', checkpoint='weights.pth'
    )
    student.dump(pair[0])
    written = write_config(*pair)
    assert 'logits' in Config.fromfile(written.file).model.distiller


# What it refuses


def test_models_of_different_classes_are_refused(pair):
    other = write_plain('other.py', cnn_segmentor(num_classes=3))
    with pytest.raises(ValueError, match='num_classes=5.*num_classes=3'):
        write_config(pair[0], other)
    assert not Path('bckd_small.py').exists()


def test_data_of_other_classes_are_refused(pair):
    data = Config.fromfile(MMSEG / '_base_/datasets/cityscapes.py')
    student = write_plain(
        'student.py',
        cnn_segmentor(),
        train_dataloader=data.train_dataloader,
    )
    with pytest.raises(ValueError, match='num_classes=5.*19 classes'):
        write_config(student, pair[1])


@pytest.mark.parametrize(
    'name, message',
    [
        ('absent.py', 'absent.py does not exist'),
        ('mmseg::fcn/absent.py', 'absent.py does not exist'),
        ('mmpose::hand/hand.py', 'mmseg::'),
        ('pose.py', "default_scope='mmseg'"),
        ('broken.py', 'cannot be read'),
        ('data.py', 'no `model`'),
        ('distillation.py', 'that of a distillation'),
        ('backbone.py', 'but got FeatureExtractor'),
        ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'one library'),
    ],
)
def test_wrong_files_are_refused(pair, name, message):
    model = cnn_segmentor()
    write_plain('data.py', None)
    backbone = dict(
        type='mmrazor.FeatureExtractor', backbone=model['backbone']
    )
    write_plain('backbone.py', backbone)
    write_plain('distillation.py', dict(type='a', architecture=model))
    Config(dict(default_scope='mmpose', model=model)).dump('pose.py')
    Path('broken.py').write_text('model = dict(')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_config(pair[0], name)


def test_new_style_students_are_refused(pair):
    text = Path(pair[0]).read_text()
    Path('new.py').write_text(f'from mmseg.models import FPNHead\n{text}')
    with pytest.raises(ValueError, match='as text'):
        write_config('new.py', pair[1])


@pytest.mark.parametrize('name', ['plain', 'plain.yaml'])
def test_file_that_is_no_python_config_is_refused(pair, name):
    with pytest.raises(ValueError, match=rf'{name}.*--out NAME\.py'):
        write_config(*pair, out=name)
    assert not Path(name).exists()


def test_command_can_be_typed_where_names_have_spaces(pair):
    Path(pair[0]).rename('my student.py')
    written = write_config('my student.py', pair[1])
    assert shlex.split(written.command)[3] == 'bckd_my student.py'


@pytest.mark.parametrize(
    'loader, message',
    [
        (None, 'a data set in its train_dataloader'),
        (dict(dataset=dict(type='NoDataset')), 'student.py .*NoDataset'),
    ],
)
def test_data_that_cannot_be_built_are_named(pair, loader, message):
    student = write_plain(
        'student.py', cnn_segmentor(), train_dataloader=loader
    )
    with pytest.raises(ValueError, match=message):
        write_config(student, pair[1])


def test_existing_files_are_kept_unless_forced(pair):
    Path('mine.py').write_text('')
    with pytest.raises(FileExistsError, match='--force'):
        write_config(*pair, out='mine.py')
    assert Path('mine.py').read_text() == ''
    write_config(*pair, out='mine.py', force=True)
    assert 'BCKDDistiller' in Path('mine.py').read_text()


def test_nothing_is_left_where_the_config_cannot_be_written(pair, monkeypatch):
    before = set(Path().iterdir())

    def fail(*args, **kwargs):
        raise OSError('No space left on device')

    monkeypatch.setattr(Path, 'write_text', fail)
    with pytest.raises(OSError, match='No space left'):
        write_config(*pair, out='mine.py')
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize('side', [0, 1])
def test_config_that_is_inherited_is_never_replaced(pair, side):
    before = Path(pair[side]).read_text()
    with pytest.raises(ValueError, match='--out names that itself'):
        write_config(*pair, out=pair[side], force=True)
    assert Path(pair[side]).read_text() == before


def test_run_of_the_student_alone_is_not_written_over(pair):
    """The config that a run saves names its work directory."""
    student = write_plain(
        'student.py', cnn_segmentor(), work_dir='work_dirs/a', resume=True
    )
    cfg = Config.fromfile(write_config(student, pair[1]).file)
    assert cfg.work_dir is None and cfg.resume is False


def test_tool_lists_stages_and_ends_with_the_command(
    pair, monkeypatch, capsys
):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *pair])
    runpy.run_path(str(TOOL), run_name='__main__')
    said = capsys.readouterr().out
    assert 'decode_head.conv_seg, output' in said
    assert said.splitlines()[-1].startswith(
        'mim train mmrazor bckd_small.py --gpus '
    )
    style = subprocess.run(
        [
            sys.executable,
            '-m',
            'ruff',
            'format',
            '--diff',
            'bckd_small.py',
            '--config',
            ROOT / 'pyproject.toml',
        ],
        capture_output=True,
        text=True,
    )
    assert style.returncode == 0, style.stdout + style.stderr
