"""Every segmentation config parses, builds, trains a step, is evaluated, and
says truly what it is: its name, its teacher, its model and its entry in the
metafile.

``-k voc12aug`` and the like run a part of the walk.
"""

import re
from pathlib import Path

import pytest
import torch
from mim.commands.search import convert2df
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from modelindex.load_model_index import load as load_model_index

from tests.config_walk import (
    ALL_CONFIGS,
    MMRAZOR,
    MMSEG,
    ROOT,
    Witness,
    config,
    each,
    file_of,
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
DATASETS = {
    'voc12aug': ('PascalVOCDataset', 'Pascal VOC 2012 + Aug'),
    'cityscapes': ('CityscapesDataset', 'Cityscapes'),
    'ade20k': ('ADE20KDataset', 'ADE20K'),
    'coco-stuff10k': ('COCOStuffDataset', 'COCO-Stuff 10k'),
    'camvid': ('CamVidDataset', 'CamVid'),
    'street-scenes': ('StreetScenesDataset', 'Street Scenes'),
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


def one_small_step(path: Path, work_dir: Path) -> Config:
    """A config to run for one iteration on a CPU, with small pictures."""
    cfg = Config.fromfile(path)
    parts = [
        cfg.model,
        cfg.data_preprocessor,
        cfg.train_dataloader,
        cfg.val_dataloader,
    ]
    smaller(parts, factor=min(cfg.data_preprocessor.size) // 64)
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
    if 'efficientnet' in path.stem:
        pytest.importorskip('timm')
    monkeypatch.chdir(data)
    for name in ('MMBCKD_CAMVID', 'MMBCKD_STREET_SCENES'):
        monkeypatch.delenv(name, raising=False)

    witness = Witness()
    runner = Runner.from_cfg(one_small_step(path, tmp_path))
    runner.register_hook(witness)
    runner.train()

    witness.check_losses(terms(path))
    # All of the student and of the boundary head, nothing of the teacher. The
    # scale of a batch norm that is folded into a convolution stays 1.
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
        if not name.startswith('teacher.') and name not in folded
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
    batch, iters, kilo, name, height, width = re.fullmatch(
        r'.*_\dxb(\d+)-([\d.]+)(k?)_([\w-]+)-(\d+)x(\d+)', path.stem
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
        assert dataset.type == DATASETS[name][0]
        for transform in dataset.pipeline:
            if transform['type'] == 'RandomCrop':
                assert tuple(transform['crop_size']) == crop


@every_distillation
def test_teacher_is_the_one_of_its_checkpoint_and_fits_the_student(path):
    cfg = config(path)
    file = file_of(cfg.model.teacher)
    teacher, checkpoint = config(file), cfg.model.teacher_ckpt
    iters = teacher.train_cfg.max_iters
    if MMSEG in file.parents:
        name = f'configs/{file.relative_to(MMSEG)}'
        assert checkpoint in [
            entry['Weights']
            for entry in metafile(file.with_name('metafile.yaml'))['Models']
            if entry['Config'] == name
        ]
        # Upstream lists the weights of two schedules under one config.
        assert f'_{iters // 1000}k_' in Path(checkpoint).name
    elif checkpoint.startswith('work_dirs'):
        assert checkpoint == f'work_dirs/{file.stem}/iter_{iters}.pth'
    else:
        assert Path(checkpoint).resolve() == file.with_suffix('.pth')
        assert Path(checkpoint).is_file()

    for key in ('mean', 'std', 'bgr_to_rgb'):
        assert teacher.data_preprocessor[key] == cfg.data_preprocessor[key]
    assert (
        teacher.model.decode_head.num_classes
        == cfg.model.architecture.decode_head.num_classes
    )
    assert (
        teacher.val_dataloader.dataset.type == cfg.val_dataloader.dataset.type
    )


@each(
    [
        path
        for path in CONFIGS
        if not terms(path)
        and any(f'_{name}-' in path.stem for name in ZOO_DATASETS)
    ]
)
def test_derived_config_is_upstreams_model_on_upstreams_data(path):
    assert upstream(path.stem) is None, 'upstream has it: use that one'
    assert path.read_text().startswith('# Derived: upstream has ')
    cfg = config(path)
    name, schedule = re.split(r'_(?=\dxb)', path.stem)

    same_model = list(MMSEG.rglob(f'{name}_?xb?-[0-9]*_cityscapes-*x1024.py'))
    assert same_model
    for other in map(config, same_model):
        for key, dropped in (
            ('model', ('num_classes', 'size', 'test_cfg')),
            ('optim_wrapper', ()),
            ('param_scheduler', ('end',)),
        ):
            assert plain(cfg[key], dropped) == plain(other[key], dropped), key

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
        assert f'cwd_{row}' in here or f'cwd_logits_{row}' in razor
        for alone in (teacher, student):
            name = f'{alone}_{schedule}'
            assert (name in here) != (upstream(name) is not None)
        if 'pspnet' in student:
            assert {f'bckd-bd_{row}', f'bckd-cd_{row}'} <= here


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
    assert said['Training Data'] == next(
        title
        for name, (_, title) in DATASETS.items()
        if f'_{name}-' in path.stem
    )
    if not terms(path):
        assert entry['In Collection'] not in ('BCKD', 'CWD', 'KD')
        return
    row = path.stem.partition('_')[2]
    by = kind(path).removeprefix('qat-').partition('-')[0]
    assert entry['In Collection'] == by.upper()
    cfg = config(path)
    assert said['Teacher'] == file_of(cfg.model.teacher).stem
    assert row.endswith(said['Student'].removeprefix('qat_'))
    local = path.with_name(f'{said["Student"]}.py')
    alone = config(local if local.exists() else upstream(said['Student']))
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
