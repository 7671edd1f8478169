"""Every segmentation config parses, builds, trains a step, is evaluated, and
says truly what it is: its name, its teacher, its model and its entry in the
metafile.

``-k voc12aug`` and the like run a part of the walk.
"""

import re
from math import ceil
from pathlib import Path

import pytest
import torch
from mim.commands.search import convert2df
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from mmseg.models.decode_heads import LRASPPHead
from modelindex.load_model_index import load as load_model_index
from torch.nn import functional as F

from tests.config_walk import (
    ALL_CONFIGS,
    MMRAZOR,
    MMSEG,
    ROOT,
    Witness,
    config,
    each,
    file_of,
    hostless,
    is_own_checkpoint,
    kind,
    metafile,
    plain,
    terms,
    upstream,
)
from tests.data_layouts import write_datasets

MMDET_CONFIGS = ROOT / 'configs/mmdet'
CONFIGS = [p for p in ALL_CONFIGS if not p.is_relative_to(MMDET_CONFIGS)]
# The zoo: teacher and student, and the schedules of the four data sets.
PAIRS = [
    ('pspnet_r101-d8', 'pspnet_r18-d8'),
    ('deeplabv3_r101-d8', 'deeplabv3_r18-d8'),
    ('deeplabv3plus_r101-d8', 'deeplabv3plus_r18-d8'),
    ('deeplabv3plus_r101-d8', 'mobilenet-v2-d8_deeplabv3plus'),
    ('fcn_hr48', 'fcn_hr18s'),
    ('segformer_mit-b4', 'segformer_mit-b0'),
    ('fpn_efficientnet-lite2', 'fpn_efficientnet-lite0'),
]
SCHEDULES = [
    '4xb4-40k_voc12aug-512x512',
    '4xb2-80k_cityscapes-512x1024',
    '4xb4-160k_ade20k-512x512',
    '4xb4-40k_coco-stuff10k-512x512',
]
SEGFORMER_SCHEDULES = [
    '8xb2-40k_voc12aug-512x512',
    '8xb1-160k_cityscapes-1024x1024',
    '8xb2-160k_ade20k-512x512',
    '8xb2-40k_coco-stuff10k-512x512',
]
ZOO_DATASETS = ('voc12aug', 'cityscapes', 'ade20k', 'coco-stuff10k')
# With upstream's students that have a config for one of the data sets only.
REAL_TIME_STUDENTS = dict(
    pidnet='pidnet-s_2xb6-120k_1024x1024-cityscapes',
    bisenetv2='bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024',
    segnext='segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
    ddrnet='ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    stdc='stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024',
    fast_scnn='fast_scnn_8xb4-160k_cityscapes-512x1024',
    lraspp='mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024',
)
REAL_TIME_PAIRS = [
    ('pidnet-l', 'pidnet'),
    ('segformer_mit-b5', 'pidnet'),
    ('segformer_mit-b5', 'bisenetv2'),
    ('segformer_mit-b5', 'segnext'),
    ('mask2former_swin-b-in22k-384x384-pre', 'pidnet'),
    ('mask2former_swin-b-in22k-384x384-pre', 'bisenetv2'),
    ('mask2former_swin-b-in22k-384x384-pre', 'segnext'),
    ('ddrnet_23_in1k-pre', 'ddrnet'),
    ('stdc2_in1k-pre', 'stdc'),
    ('segnext_mscan-b', 'segnext'),
    ('pspnet_r101-d8', 'fast_scnn'),
    ('pspnet_r101-d8', 'lraspp'),
]
# Class, name and number of classes.
DATASETS = {
    'voc12aug': ('PascalVOCDataset', 'Pascal VOC 2012 + Aug', 21),
    'cityscapes': ('CityscapesDataset', 'Cityscapes', 19),
    'ade20k': ('ADE20KDataset', 'ADE20K', 150),
    'coco-stuff10k': ('COCOStuffDataset', 'COCO-Stuff 10k', 171),
    'camvid': ('CamVidDataset', 'CamVid', 11),
    'street-scenes': ('StreetScenesDataset', 'Street Scenes', 11),
}
# What is distilled lies where the models' definitions have it: the strides of
# the class logits of teacher and student, in the order of the folders.
LOGIT_STRIDES = {
    'quickstart': (4, 4),
    'ddrnet_23_ddrnet_23-slim': (8, 8),
    'deeplabv3_r101_deeplabv3_r18': (8, 8),
    'deeplabv3plus_r101_deeplabv3plus_mobilenet-v2': (4, 4),
    'deeplabv3plus_r101_deeplabv3plus_r18': (4, 4),
    'fpn_efficientnet-lite2_ddrnet_23-slim': (4, 8),
    'fpn_efficientnet-lite2_fpn_efficientnet-lite0': (4, 4),
    'fpn_efficientnet-lite2_fpn_efficientnet-lite0-s16': (4, 4),
    'fpn_r50_fpn_r18': (4, 4),
    'hrnet_w48_hrnet_w18s': (4, 4),
    'mask2former_swin-b_bisenetv2': (4, 8),
    'mask2former_swin-b_pidnet_s': (4, 8),
    'mask2former_swin-b_segnext_t': (4, 8),
    'pidnet_l_pidnet_s': (8, 8),
    'pspnet_r101_fast-scnn': (8, 8),
    'pspnet_r101_lraspp_mobilenet-v3': (8, 2),
    'pspnet_r101_pspnet_r18': (8, 8),
    'segformer_b4_pspnet_r18': (4, 8),
    'segformer_b4_segformer_b0': (4, 4),
    'segformer_b5_bisenetv2': (4, 8),
    'segformer_b5_pidnet_s': (4, 8),
    'segformer_b5_segnext_t': (4, 8),
    'segnext_b_segnext_t': (8, 8),
    'stdc2_stdc1': (8, 8),
    'qat': (4, 4),
}
# Students whose terms are on features: the channels and strides of their
# backbones, and the channels of what the classifiers of teacher and student
# see.
STRIDES = (4, 8, 16, 32)
FEATURES = {
    'quickstart': (tuple(zip((8, 16, 32, 64), STRIDES)), 32, 16),
    'fpn_r50_fpn_r18': (tuple(zip((32, 64, 128, 256), STRIDES)), 64, 32),
    'fpn_efficientnet-lite2_fpn_efficientnet-lite0': (
        tuple(zip((24, 40, 112, 320), STRIDES)),
        64,
        32,
    ),
    # The first is what the auxiliary head reads.
    'fpn_efficientnet-lite2_ddrnet_23-slim': (((64, 8), (128, 8)), 64, 64),
}


every_config = each(CONFIGS)
every_distillation = each([path for path in CONFIGS if terms(path)])


# The walk


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data_sets')
    write_datasets(root)
    return root


def smaller(node, factor: int) -> None:
    """Divide every size of a picture in a part of a config."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in children:
        if key in ('scale', 'crop_size', 'size', 'stride'):
            node[key] = tuple(side // factor for side in child)
        elif isinstance(child, (dict, list)):
            smaller(child, factor)


def data_set(path: Path) -> tuple:
    """Class, name and number of classes of the data set in a config's name."""
    return next(
        value
        for name, value in DATASETS.items()
        if re.search(rf'[_-]{name}(-\d|$)', path.stem)
    )


def intended_maps(path: Path, size: tuple) -> dict:
    """Recorder, module and shapes of what each loss is to compare, in
    pictures of a size."""
    folder, classes = path.parent.name, data_set(path)[2]

    def shape(channels: int, stride: int) -> tuple:
        return (channels, *(ceil(side / stride) for side in size))

    def logits(stride: int) -> tuple:
        return (
            'ModuleOutputs',
            'decode_head.conv_seg',
            [shape(classes, stride)],
        )

    if folder.startswith('dinov2'):
        vit = ('ModuleOutputs', 'backbone', [shape(768, 14)])
        stages = ((64, 4), (128, 8), (256, 8), (512, 8))
        return {
            ('loss_bd', 'student'): (
                'ModuleOutputs',
                'backbone',
                [shape(*stage) for stage in stages],
            ),
            ('loss_bd', 'teacher'): vit,
            ('loss_cd', 'student'): (
                'ModuleInputs',
                'decode_head.conv_seg',
                [shape(128, 8)],
            ),
            ('loss_cd', 'teacher'): vit,
        }
    teacher, student = map(logits, LOGIT_STRIDES[folder])
    if folder.startswith('mask2former'):
        teacher = ('MaskClassLogits', 'decode_head', teacher[2])
    maps = {
        (loss, side): of_side
        for loss in terms(path)
        for side, of_side in (('student', student), ('teacher', teacher))
    }
    on_features = kind(path).startswith('bckd-features') or (
        kind(path).startswith('bckd')
        and folder in ('quickstart', 'fpn_r50_fpn_r18')
    )
    if on_features:
        backbone, seen_by_teacher, seen_by_student = FEATURES[folder]
        maps['loss_bd', 'student'] = (
            'ModuleOutputs',
            'backbone',
            [shape(*stage) for stage in backbone],
        )
        for side, channels, stride in zip(
            ('teacher', 'student'),
            (seen_by_teacher, seen_by_student),
            LOGIT_STRIDES[folder],
        ):
            maps['loss_cd', side] = (
                'ModuleInputs',
                'decode_head.conv_seg',
                [shape(channels, stride)],
            )
    if kind(path) in ('mgd', 'pkd'):
        maps = {
            (f'loss_{kind(path)}_fpn{i}', side): (
                'ModuleOutputs',
                'neck',
                [shape(channels, 4 * 2**i)],
            )
            for i in range(4)
            for side, channels in (('teacher', 64), ('student', 32))
        }
    return {key: of for key, of in maps.items() if key[0] in terms(path)}


def one_small_step(path: Path, work_dir: Path) -> Config:
    """A config to run for one iteration on a CPU, with small pictures."""
    cfg = Config.fromfile(path)
    parts = [
        cfg.model,
        cfg.data_preprocessor,
        cfg.train_dataloader,
        cfg.val_dataloader,
    ]
    # By a power of two: DDRNet wants sides that 8 divides.
    factor = min(cfg.data_preprocessor.size) // 64
    smaller(parts, 2 ** (factor.bit_length() - 1))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.batch_size = min(loader.batch_size, 2)
    if terms(path):
        cfg.model.teacher_ckpt = None
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.default_hooks.checkpoint.save_last = False
    cfg.log_level = 'ERROR'
    cfg.work_dir = str(work_dir)
    return cfg


@every_config
def test_config_trains_and_is_evaluated(
    path, data, tmp_path, monkeypatch, without_needless_work
):
    """One iteration of the real runner on data in the real layout.

    Nothing of the config is changed but the size of the pictures and of the
    batch, the number of iterations, the processes that load data, and that
    no weights are downloaded.
    """
    if 'efficientnet' in path.stem or 'vit-b14' in path.stem:
        pytest.importorskip('timm')
    monkeypatch.chdir(data)
    for name in ('MMBCKD_CAMVID', 'MMBCKD_STREET_SCENES'):
        monkeypatch.delenv(name, raising=False)

    init_lraspp = LRASPPHead.__init__

    def init_with_small_pool(head, *args, **kwargs):
        # Upstream's pools by 49 x 49, more than small pictures have.
        init_lraspp(head, *args, **kwargs)
        head.image_pool[0].kernel_size = 8

    monkeypatch.setattr(LRASPPHead, '__init__', init_with_small_pool)

    witness = Witness()
    cfg = one_small_step(path, tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(witness)
    runner.train()

    witness.check_losses(terms(path))
    if terms(path):
        assert witness.maps == intended_maps(path, cfg.data_preprocessor.size)
    # All of the student and of the boundary head, nothing of the teacher. The
    # scale of a batch norm that is folded into a convolution stays 1, and STDC
    # has a constant as a parameter.
    folded = {
        f'architecture.{name}.weight'
        for name, module in witness.student.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        and hasattr(witness.model, 'quantization')
    }
    assert witness.first is next(witness.student.backbone.parameters())
    assert witness.learnt == {
        name
        for name, _ in witness.model.named_parameters()
        if not name.startswith('teacher.')
        and name not in folded
        and not name.endswith('.fusion_kernel')
    }
    assert {'aAcc', 'mIoU', 'mBIoU', 'bF1', 'b0_err'} <= set(witness.metrics)


# Quantization-aware training


def test_scales_have_no_rate_of_the_modules_that_they_are_named_after():
    """Nor weight decay, which draws their logarithm to 0."""
    cfg = config(
        ROOT
        / 'configs/qat/qat_fpn_efficientnet-lite0_1xb8-200_camvid-180x240.py'
    )
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    rates = {
        id(group['params'][0]): (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
    }
    lr = cfg.optim_wrapper.optimizer.lr
    scales = dict(model.quantization.named_parameters())
    assert any('decode_head' in name for name in scales)
    assert {rates[id(scale)] for scale in scales.values()} == {(lr, 0)}
    head = model.architecture.decode_head.conv_seg.weight
    assert rates[id(head)][0] == pytest.approx(5 * lr)


# What configs say


@every_config
def test_config_has_the_hooks_and_metrics_of_all(path):
    cfg = config(path)
    assert 'mmbckd' in cfg.custom_imports.imports
    assert {'DataCheckHook', 'IterationSeedHook', 'StudentCheckpointHook'} <= {
        hook['type'] for hook in cfg.custom_hooks
    }
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert [metric['type'] for metric in evaluator] == [
            'IoUMetric',
            'BoundaryIoUMetric',
            'ConnectivityMetric',
        ]


@every_config
def test_name_says_batch_schedule_data_and_crop(path):
    cfg = config(path)
    batch, iters, kilo = re.search(
        r'_\dxb(\d+)-(?:adamw-)?([\d.]+)(k?)_', path.stem
    ).groups()
    # Upstream names PIDNet's data after its crop.
    height, width = re.search(
        r'[_-](\d+)x(\d+)(?:-cityscapes)?$', path.stem
    ).groups()
    assert cfg.train_dataloader.batch_size == int(batch)
    iters = int(float(iters) * (1000 if kilo else 1))
    assert cfg.train_cfg.max_iters == iters == cfg.param_scheduler[-1]['end']
    crop = (int(height), int(width))
    assert tuple(cfg.data_preprocessor.size) == crop
    train = cfg.train_dataloader.dataset
    for dataset in (
        *train.get('datasets', [train]),
        cfg.val_dataloader.dataset,
        cfg.test_dataloader.dataset,
    ):
        assert dataset.type == data_set(path)[0]
        for transform in dataset.pipeline:
            if transform['type'] == 'RandomCrop':
                assert tuple(transform['crop_size']) == crop


@every_distillation
def test_teacher_is_the_one_of_its_checkpoint_and_fits_the_student(path):
    cfg = config(path)
    file = file_of(cfg.model.teacher)
    teacher, checkpoint = config(file), cfg.model.get('teacher_ckpt')
    if teacher.model.type == 'mmrazor.FeatureExtractor':
        # It knows no classes and has the weights that timm has of it.
        assert checkpoint is None and teacher.model.backbone.pretrained
        for key in ('mean', 'std', 'bgr_to_rgb'):
            assert (
                teacher.model.data_preprocessor[key]
                == cfg.data_preprocessor[key]
            )
        return
    iters = teacher.train_cfg.max_iters
    if MMSEG in file.parents:
        name = f'configs/{file.relative_to(MMSEG)}'
        assert hostless(checkpoint) in [
            hostless(entry['Weights'])
            for entry in metafile(file.with_name('metafile.yaml'))['Models']
            if entry['Config'] == name
        ]
        # Upstream lists the weights of two schedules under one config.
        assert re.search(rf'[_-]{iters // 1000}k_', Path(checkpoint).name)
    else:
        assert is_own_checkpoint(checkpoint, file, iters)

    assert (
        teacher.model.decode_head.num_classes
        == cfg.model.architecture.decode_head.num_classes
    )
    assert (
        teacher.val_dataloader.dataset.type == cfg.val_dataloader.dataset.type
    )


DERIVED, CORRECTED, NEW = (
    [path for path in CONFIGS if path.read_text().startswith(f'# {how}: ')]
    for how in ('Derived', 'Corrected', 'New')
)


def test_students_and_teachers_alone_say_why_they_are_here():
    alone = {
        path
        for path in CONFIGS
        if not terms(path)
        and any(
            f'_{name}-' in path.stem or path.stem.endswith(f'-{name}')
            for name in ZOO_DATASETS
        )
    }
    assert alone == {*DERIVED, *CORRECTED, *NEW}


@each(CORRECTED)
def test_corrected_config_is_upstreams_but_for_what_fails(path):
    here, there = config(path), config(upstream(path.stem))
    # What MMSegmentation 1.2.2 fails on, see WeightedCrossEntropyLoss.
    heads = [each.model.decode_head for each in (here, there)]
    if 'pidnet' in path.stem:
        losses = [plain(head.loss_decode) for head in heads]
        assert losses[0][0].pop('type') == 'WeightedCrossEntropyLoss'
        assert losses[1][0].pop('type') == 'CrossEntropyLoss'
        assert losses[1][0].pop('use_sigmoid') is False
        assert losses[0] == losses[1]
    # The iterations that upstream's name and its `runner` say.
    iters = there.get('runner', there.train_cfg).max_iters
    assert here.train_cfg.max_iters == here.param_scheduler[-1].end == iters
    for key, dropped in (
        ('model', ('loss_decode',)),
        ('optim_wrapper', ()),
        ('param_scheduler', ('end',)),
        ('train_dataloader', ()),
    ):
        assert plain(here[key], dropped) == plain(there[key], dropped), key


@each(DERIVED)
def test_derived_config_is_upstreams_model(path):
    cfg = config(path)
    name, _ = re.split(r'_(?=\dxb)', path.stem)

    same_model = list(MMSEG.rglob(f'{name}_?xb?-[0-9]*_cityscapes-*x1024.py'))
    assert same_model
    for other in map(config, same_model):
        for key, dropped in (
            ('model', ('num_classes', 'size', 'test_cfg')),
            ('optim_wrapper', ()),
            ('param_scheduler', ('end',)),
        ):
            assert plain(cfg[key], dropped) == plain(other[key], dropped), key


@each([*DERIVED, *NEW])
def test_derived_and_new_configs_are_of_upstreams_data_and_schedule(path):
    assert upstream(path.stem) is None, 'upstream has it: use that one'
    cfg = config(path)
    _, schedule = re.split(r'_(?=\dxb)', path.stem)
    same_data = config(
        MMSEG / f'pspnet/pspnet_r50-d8_{schedule.replace("8xb2", "4xb4")}.py'
    )
    for key in ('train_dataloader', 'val_dataloader'):
        assert plain(cfg[key].dataset) == plain(same_data[key].dataset)
    assert plain(cfg.train_cfg) == plain(same_data.train_cfg)
    for head in ('decode_head', 'auxiliary_head'):
        if head in cfg.model:
            assert (
                cfg.model[head].num_classes
                == same_data.model[head].num_classes
            )


@each([path for path in ALL_CONFIGS if terms(path)])
def test_configs_of_a_row_differ_in_their_distiller_only(path):
    row = path.stem.partition('_')[2]
    first = 'qat-bckd' if kind(path).startswith('qat') else 'bckd'
    assert plain(config(path), ('distiller',)) == plain(
        config(path.with_name(f'{first}_{row}.py')), ('distiller',)
    )


@pytest.mark.parametrize('teacher, student', PAIRS, ids='-'.join)
def test_every_row_of_the_zoo_is_there(teacher, student):
    here = {path.stem for path in CONFIGS}
    razor = {path.stem for path in MMRAZOR.rglob('cwd_*.py')}
    for schedule in (
        SEGFORMER_SCHEDULES if 'segformer' in teacher else SCHEDULES
    ):
        row = f'{teacher}_{student}_{schedule}'
        assert {f'bckd_{row}', f'bckd-cwd_{row}'} <= here
        assert (
            'efficientnet' in row
            or f'cwd_{row}' in here
            or f'cwd_logits_{row}' in razor
        )
        for alone in (teacher, student):
            name = f'{alone}_{schedule}'
            assert (name in here) != (upstream(name) is not None)
        if 'pspnet' in student:
            assert {f'bckd-bd_{row}', f'bckd-cd_{row}'} <= here


@pytest.mark.parametrize('teacher, student', REAL_TIME_PAIRS, ids='-'.join)
def test_every_row_of_the_real_time_students_is_there(teacher, student):
    here = {path.stem for path in CONFIGS}
    row = f'{teacher}_{REAL_TIME_STUDENTS[student]}'
    assert {f'bckd_{row}', f'bckd-cwd_{row}'} <= here
    assert upstream(REAL_TIME_STUDENTS[student])


@pytest.mark.parametrize('name', REAL_TIME_STUDENTS.values())
def test_what_is_distilled_is_what_real_time_students_segment_by(name):
    """Some have several heads, or several maps of logits in training."""
    model = MODELS.build(
        dict(config(upstream(name)).model, _scope_='mmseg')
    ).eval()
    seen = []
    model.decode_head.conv_seg.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    # LR-ASPP pools by 49 x 49 pixels of stride 8.
    size = (392, 392) if 'lraspp' in name else (64, 64)
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
    with torch.no_grad():
        logits = model.encode_decode(torch.randn(1, 3, *size), [meta])
    (recorded,) = seen
    resized = F.interpolate(
        recorded,
        size,
        mode='bilinear',
        align_corners=model.decode_head.align_corners,
    )
    torch.testing.assert_close(resized, logits)


# Metafiles and the page about them


def test_mim_finds_every_config_where_it_lies():
    index = load_model_index(str(ROOT / 'mmbckd/.mim/model-index.yml'))
    index.check(silent=False)
    assert dict(convert2df(index)['config']) == {
        path.stem: str(path.relative_to(ROOT)) for path in ALL_CONFIGS
    }


@every_config
def test_metafile_names_collection_data_teacher_and_student(path):
    (entry,) = (
        model
        for model in metafile(path.with_name('metafile.yml'))['Models']
        if model['Name'] == path.stem
    )
    said = entry['Metadata']
    assert said['Training Data'] == data_set(path)[1]
    if not terms(path):
        assert entry['In Collection'] not in ('BCKD', 'CWD', 'KD')
        return
    row = path.stem.partition('_')[2]
    by = kind(path).removeprefix('qat-').partition('-')[0]
    assert entry['In Collection'] == by.upper()
    cfg = config(path)
    assert said['Teacher'] == file_of(cfg.model.teacher).stem
    assert row.endswith(said['Student'].removeprefix('qat_'))
    local = next((p for p in CONFIGS if p.stem == said['Student']), None)
    alone = config(local or upstream(said['Student']))
    model = alone.model.get('architecture', alone.model)
    assert plain(cfg.model.architecture) == plain(model)
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler'):
        assert plain(cfg[key]) == plain(alone[key])


def test_page_names_every_folder_and_every_teacher_to_train():
    page = (ROOT / 'configs/mmseg/README.md').read_text()
    for path in (ROOT / 'configs/mmseg').rglob('*.py'):
        assert f']({path.parent.name})' in page
        model = config(path).model
        if model.get('teacher_ckpt', '').startswith('work_dirs'):
            assert (
                str(file_of(model.teacher).relative_to(ROOT / 'configs/mmseg'))
                in page
            )
