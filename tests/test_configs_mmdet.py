"""Every config of configs/mmdet builds, trains a step, is evaluated, and says
truly what it is: its name, its teacher, its model and its metafile.

``-k mask-rcnn`` and the like run a part of the walk.
"""

from math import ceil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmrazor.registry import MODELS

from mmbckd.models.algorithms import frozen_teacher_distill
from tests.config_walk import (
    ALL_CONFIGS,
    MMDET,
    MMRAZOR,
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
from tests.data_layouts import write_camvid
from tests.data_layouts_coco import write_coco

CONFIGS = [p for p in ALL_CONFIGS if p.is_relative_to(ROOT / 'configs/mmdet')]
# The zoo: teacher and student, as their configs are called.
ROWS = [
    ('retinanet_r101_fpn_2x_coco', 'retinanet_r50_fpn_2x_coco'),
    ('retinanet_r101_fpn_2x_coco', 'retinanet_r18_fpn_1x_coco'),
    ('faster-rcnn_r101_fpn_2x_coco', 'faster-rcnn_r50_fpn_2x_coco'),
    ('gfl_r101_fpn_ms-2x_coco', 'gfl_r50_fpn_ms-2x_coco'),
    (
        'fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco',
        'fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco',
    ),
    ('mask-rcnn_r101_fpn_2x_coco', 'mask-rcnn_r50_fpn_2x_coco'),
    ('mask-rcnn_r101_fpn_2x_coco', 'mask-rcnn_r18_fpn_2x_coco'),
    ('solov2_r101-dcn_fpn_ms-3x_coco', 'solov2_r50_fpn_ms-3x_coco'),
    (
        'condinst_r50_fpn_ms-poly-90k_coco_instance',
        'condinst_r18_fpn_ms-poly-90k_coco_instance',
    ),
    ('rtmdet_l_8xb32-300e_coco', 'rtmdet_s_8xb32-300e_coco'),
    ('rtmdet_l_8xb32-300e_coco', 'rtmdet_tiny_8xb32-300e_coco'),
    ('rtmdet-ins_l_8xb32-300e_coco', 'rtmdet-ins_tiny_8xb32-300e_coco'),
    ('yolox_l_8xb8-300e_coco', 'yolox_s_8xb8-300e_coco'),
    (
        'mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco',
        'mask-rcnn_r50_fpn_2x_coco',
    ),
    ('mask2former_r50_8xb2-lsj-50e_coco', 'mask-rcnn_r50_fpn_2x_coco'),
]
INSTANCE = ('mask-rcnn', 'solov2', 'condinst', 'rtmdet-ins')

# The maps that the losses are to read, as channels by stride.
R18 = {4: 64, 8: 128, 16: 256, 32: 512}
R50 = {4: 256, 8: 512, 16: 1024, 32: 2048}
P2_TO_P6 = dict.fromkeys((4, 8, 16, 32, 64), 256)
P3_TO_P7 = dict.fromkeys((8, 16, 32, 64, 128), 256)
PAFPN = {width: dict.fromkeys((8, 16, 32), width) for width in (96, 128, 256)}
# Of each folder: the student's backbone and neck, and the teacher's neck.
MAPS = {
    'condinst_r50_condinst_r18': (R18, P3_TO_P7, P3_TO_P7),
    'faster-rcnn_r101_faster-rcnn_r50': (R50, P2_TO_P6, P2_TO_P6),
    'fcos_r101_fcos_r50': (R50, P3_TO_P7, P3_TO_P7),
    'gfl_r101_gfl_r50': (R50, P3_TO_P7, P3_TO_P7),
    'mask-rcnn_r101_mask-rcnn_r18': (R18, P2_TO_P6, P2_TO_P6),
    'mask-rcnn_r101_mask-rcnn_r50': (R50, P2_TO_P6, P2_TO_P6),
    'mask-rcnn_swin-s_mask-rcnn_r50': (R50, P2_TO_P6, P2_TO_P6),
    # Of Mask2Former no neck but the map that its masks are products of.
    'mask2former_r50_mask-rcnn_r50': (R50, P2_TO_P6, {4: 256}),
    'mask-rcnn_efficientnet-lite2_mask-rcnn_efficientnet-lite0': (
        {4: 24, 8: 40, 16: 112, 32: 320},
        dict.fromkeys(P2_TO_P6, 64),
        dict.fromkeys(P2_TO_P6, 128),
    ),
    'mask-rcnn_r18_mask-rcnn_r18-w16': (
        {4: 16, 8: 32, 16: 64, 32: 128},
        dict.fromkeys(P2_TO_P6, 64),
        dict.fromkeys(P2_TO_P6, 128),
    ),
    'retinanet_r101_retinanet_r18': (R18, P3_TO_P7, P3_TO_P7),
    'retinanet_r101_retinanet_r50': (R50, P3_TO_P7, P3_TO_P7),
    'rtmdet-ins_l_rtmdet-ins_tiny': (
        {8: 96, 16: 192, 32: 384},
        PAFPN[96],
        PAFPN[256],
    ),
    'rtmdet_l_rtmdet_s': (
        {8: 128, 16: 256, 32: 512},
        PAFPN[128],
        PAFPN[256],
    ),
    'rtmdet_l_rtmdet_tiny': (
        {8: 96, 16: 192, 32: 384},
        PAFPN[96],
        PAFPN[256],
    ),
    'solov2_r101_solov2_r50': (R50, P2_TO_P6, P2_TO_P6),
    'yolox_l_yolox_s': ({8: 128, 16: 256, 32: 512}, PAFPN[128], PAFPN[256]),
}


every_config = each(CONFIGS)
every_distillation = each([path for path in CONFIGS if terms(path)])


def entries(path: Path) -> list[dict]:
    """What the metafile says of a config."""
    models = metafile(path.with_name('metafile.yml'))['Models']
    return [model for model in models if model['Name'] == path.stem]


def evaluates_masks(path: Path) -> bool:
    return any(name in path.stem for name in INSTANCE)


def is_small(path: Path) -> bool:
    """Whether a config is for a CPU."""
    return any(name in path.stem for name in ('overfit', 'camvid'))


def compares_boxes(path: Path) -> bool:
    """Whether the context of a pair is that of objects."""
    return path.parent.name == (
        'mask-rcnn_efficientnet-lite2_mask-rcnn_efficientnet-lite0'
    )


def data_of(path: Path) -> tuple:
    """What a config is trained on: its name, and the number of classes."""
    return ('CamVid', 4) if 'camvid' in path.stem else ('COCO', 80)


# The walk


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data_sets')
    write_coco(root / 'data/coco', train=2, val=2)
    write_camvid(root / 'data/camvid')
    return root


@pytest.fixture(autouse=True)
def _in_data(data, monkeypatch, without_needless_work):
    monkeypatch.chdir(data)
    for name in ('MMBCKD_COCO', 'MMBCKD_CAMVID'):
        monkeypatch.delenv(name, raising=False)


def each_value(node):
    """All keys and values of a part of a config, and the dicts they are of."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield node, key, value
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list)):
            yield from each_value(child)


def divided(sizes, factor: int):
    if isinstance(sizes, int):
        return sizes // factor
    return type(sizes)(divided(size, factor) for size in sizes)


SIZES = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'border')


def make_smaller(cfg: Config, factor: int) -> None:
    """Divide the size of the images, and lessen what goes with it.

    That is the number of proposals and of SOLO's cells. Random weights find
    nothing that reaches a threshold of the score, so that there is none.
    """
    is_rtmdet = 'RTMDet' in str(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for node, key, value in each_value(loader.dataset):
            if key in SIZES and not isinstance(node.get(key), dict):
                node[key] = divided(value, factor)
    for node, key, value in each_value(cfg.model):
        if key == 'num_grids':
            node[key] = divided(value, 4)
        elif key == 'max_per_img':
            node[key] = min(value, 50)
        elif key in ('score_thr', 'filter_thr'):
            node[key] = 0.0
        elif key == 'min_bbox_size' and value == 0 and is_rtmdet:
            # Random weights may say that a box is less than 0 high.
            node[key] = -1
        elif key == 'random_size_range':
            node[key] = divided(value, factor)


def one_small_step(path: Path, work_dir: Path) -> Config:
    """A config to run for one iteration on a CPU, with small pictures."""
    cfg = Config.fromfile(path)
    # Of RTMDet and YOLOX, at 640 pixels, maps are to be divisible by 32.
    large = 10 if any(n in path.stem for n in ('rtmdet', 'yolox')) else 12
    make_smaller(cfg, factor=4 if is_small(path) else large)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.batch_size = min(loader.batch_size, 2)
    if terms(path):
        cfg.model.teacher_ckpt = None
    # An epoch is one batch.
    length = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    cfg.train_cfg.update({length: 1, 'val_interval': 1})
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.randomness = dict(seed=0)
    cfg.log_level = 'ERROR'
    cfg.work_dir = str(work_dir)
    return cfg


class MapWitness(Witness):
    """Sees the size of the images that the compared maps are of as well."""

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if hasattr(self, 'distiller'):
            self.student.register_forward_pre_hook(self.see_images)

    def see_images(self, _, inputs: tuple) -> None:
        self._latest = tuple(inputs[0].shape[-2:])

    def compute_losses(self) -> dict:
        self.size = self._latest
        return super().compute_losses()


def intended_maps(path: Path, size: tuple) -> dict:
    """Recorder, module and shapes of what each loss is to compare, in images
    of a size."""

    def shapes(maps: dict) -> list[tuple]:
        return [
            (channels, *(ceil(side / stride) for side in size))
            for stride, channels in maps.items()
        ]

    backbone, student, teacher = map(shapes, MAPS[path.parent.name])
    maps = {}
    for loss in terms(path):
        levels = slice(None)
        if loss.startswith('loss_pkd'):
            level = int(loss[-1])
            levels = slice(level, level + 1)
        for side, neck in (('student', student), ('teacher', teacher)):
            maps[loss, side] = ('ModuleOutputs', 'neck', neck[levels])
    if 'loss_bd' in terms(path):
        maps['loss_bd', 'student'] = ('ModuleOutputs', 'backbone', backbone)
        maps['loss_bd', 'teacher'] = ('ModuleOutputs', 'neck', teacher[:1])
    if path.parent.name.startswith('mask2former'):
        ((_, *masks),) = teacher
        maps = {
            ('loss_bd', 'student'): ('ModuleOutputs', 'backbone', backbone),
            # Of each pixel none or one of 100 queries.
            ('loss_bd', 'teacher'): (
                'MaskQueryLogits',
                'panoptic_head',
                [(101, *masks)],
            ),
            ('loss_cd', 'student'): ('ModuleOutputs', 'neck', student[:1]),
            ('loss_cd', 'teacher'): (
                'ModuleOutputs',
                'panoptic_head.pixel_decoder',
                teacher,
            ),
        }
    if compares_boxes(path) and 'loss_cd' in terms(path):
        # Nine boxes for the object in each of the two images.
        for side, channels in (('student', 128), ('teacher', 256)):
            maps['loss_cd', side] = (
                'InstanceFeatures',
                'roi_head',
                [(channels, 1, 18)],
            )
    if kind(path) == 'bckd-label':
        maps['loss_bd', 'teacher'] = ('GroundTruth', 'gt_instances', [size])
    return maps


@every_config
def test_config_trains_and_is_evaluated(path, tmp_path):
    """One iteration of the real runner on images in COCO's layout.

    Nothing of the config is changed but what :func:`make_smaller` changes, the
    number of iterations, the processes that load data, and that no weights
    are downloaded.
    """
    witness = MapWitness()
    runner = Runner.from_cfg(one_small_step(path, tmp_path))
    runner.register_hook(witness)
    runner.train()

    witness.check_losses(terms(path))
    if terms(path):
        assert witness.maps == intended_maps(path, witness.size)
    # All that upstream trains of the student, and the boundary head.
    assert witness.learnt == {
        name
        for name, parameter in witness.model.named_parameters()
        if parameter.requires_grad
    }
    if terms(path):
        assert not any(name.startswith('teacher.') for name in witness.learnt)
        for side in (witness.model.student, witness.model.teacher):
            assert (
                frozen_teacher_distill.num_classes_of(side) == data_of(path)[1]
            )
    scores = {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/boundary_mAP'}
    if not evaluates_masks(path):
        scores = {'coco/bbox_mAP'}
    elif 'solov2' in path.stem:
        scores -= {'coco/bbox_mAP'}
    assert scores <= set(witness.metrics)


def test_student_of_a_run_is_the_plain_detector(tmp_path):
    """What the hook writes loads strictly, and finds what the run found."""
    (path,) = (ROOT / 'configs/mmdet').rglob('bckd_*_coco-tiny-overfit-*.py')
    cfg = one_small_step(path, tmp_path)
    cfg.default_hooks.checkpoint.interval = 1
    runner = Runner.from_cfg(cfg)
    runner.train()

    (entry,) = entries(path)
    student = Config.fromfile(
        path.with_name(f'{entry["Metadata"]["Student"]}.py')
    )
    student.model.test_cfg = cfg.model.architecture.test_cfg
    init_default_scope('mmdet')
    plain_student = MODELS.build(student.model).eval()
    checkpoint = torch.load(tmp_path / 'iter_1_student.pth', weights_only=True)
    plain_student.load_state_dict(checkpoint['state_dict'], strict=True)

    runner.model.eval()
    batch = next(iter(runner.val_dataloader))
    with torch.no_grad():
        found = runner.model.val_step(batch)[0].pred_instances
        expected = plain_student.val_step(batch)[0].pred_instances
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(found[key], expected[key])


def test_other_number_of_classes_ends_a_run_before_it_starts(tmp_path):
    (path,) = (ROOT / 'configs/mmdet').rglob(
        'mask-rcnn_r18-w16_*-overfit-*.py'
    )
    cfg = one_small_step(path, tmp_path)
    cfg.model.roi_head.bbox_head.num_classes = 79
    with pytest.raises(
        ValueError, match='num_classes=79, but CocoDataset has 80 classes'
    ):
        Runner.from_cfg(cfg).train()


# What configs say


@every_config
def test_config_has_the_hooks_and_metrics_of_all(path):
    cfg = config(path)
    assert 'mmbckd' in cfg.custom_imports.imports
    ours = ['DataCheckHook', 'IterationSeedHook', 'StudentCheckpointHook']
    student = plain(cfg.get('custom_hooks'))[: -len(ours)]
    assert [hook['type'] for hook in cfg.custom_hooks[-len(ours) :]] == ours
    # Upstream's own of the student, but for one that works in no distillation.
    (entry,) = entries(path)
    alone = upstream(entry['Metadata'].get('Student', path.stem))
    assert student == [
        hook
        for hook in (
            plain(config(alone).get('custom_hooks', [])) if alone else []
        )
        if hook['type'] != 'YOLOXModeSwitchHook'
    ]
    assert cfg.val_evaluator == cfg.test_evaluator
    assert cfg.val_evaluator.type == (
        'CocoBoundaryMetric' if evaluates_masks(path) else 'CocoMetric'
    )


@every_distillation
def test_teacher_is_the_one_of_its_checkpoint_and_fits_the_student(path):
    cfg = config(path)
    file, checkpoint = file_of(cfg.model.teacher), cfg.model.teacher_ckpt
    teacher = config(file)
    if MMDET in file.parents:
        # YOLOX's have other names there than their configs.
        assert hostless(checkpoint) in [
            hostless(entry['Weights'])
            for entry in metafile(file.with_name('metafile.yml'))['Models']
            if entry['Config'] == f'configs/{file.relative_to(MMDET)}'
        ]
    else:
        iters = teacher.train_cfg.max_iters
        assert is_own_checkpoint(checkpoint, file, iters)

    architecture = cfg.model.architecture
    # What is fed to one is fed to the other. Mask2Former's own training alone
    # pads the images to one size.
    training = ('batch_augments', 'mask_pad_value', 'seg_pad_value', 'pad_seg')
    assert plain(teacher.model.data_preprocessor, training) == plain(
        architecture.data_preprocessor, training
    )
    assert teacher.model.type == architecture.type or (
        'MaskQueryLogits' in str(cfg.model.distiller)
    )
    assert (
        plain(teacher.train_dataloader.dataset.type)
        == cfg.train_dataloader.dataset.type
    )


@pytest.mark.parametrize('teacher, student', ROWS, ids='-'.join)
def test_every_row_of_the_zoo_is_there(teacher, student):
    here = {path.stem: path for path in CONFIGS}
    row = f'{"_".join(teacher.split("_")[:2])}_{student}'
    assert f'bckd_{row}' in here
    # PKD compares FPNs, which Mask2Former has none of.
    has_pkd = not teacher.startswith('mask2former')
    assert (f'bckd-pkd_{row}' in here) == has_pkd
    razor = {path.stem for path in MMRAZOR.rglob('pkd_fpn_*.py')}
    in_razor = f'pkd_fpn_{row.replace("_fpn", "")}' in razor
    assert (f'pkd_{row}' in here) == (has_pkd and not in_razor)
    assert (student in here) != (upstream(student) is not None)
    assert file_of(config(here[f'bckd_{row}']).model.teacher) == upstream(
        teacher
    )


@each([path for path in CONFIGS if path.stem in dict(map(reversed, ROWS))])
def test_derived_student_is_upstreams_with_upstreams_resnet18(path):
    assert upstream(path.stem) is None, 'upstream has it: use that one'
    assert path.read_text().startswith('# Derived: upstream has ')
    cfg = config(path)
    larger = config(upstream(path.stem.replace('_r18_', '_r50_')))
    changed = ('depth', 'init_cfg', 'in_channels')
    assert plain(cfg.model, changed) == plain(larger.model, changed)
    r18 = config(upstream('retinanet_r18_fpn_1x_coco')).model
    assert cfg.model.backbone.depth == 18
    assert cfg.model.backbone.init_cfg == r18.backbone.init_cfg
    assert cfg.model.neck.in_channels == r18.neck.in_channels
    heads = ('bbox_head', 'mask_head', 'rpn_head', 'roi_head')
    for head in heads:
        assert plain(cfg.model.get(head, {})) == plain(
            larger.model.get(head, {})
        )
    for key in SCHEDULE:
        assert plain(cfg[key]) == plain(larger[key])


SCHEDULE = (
    'train_dataloader',
    'val_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
)


@every_config
def test_metafile_names_collection_data_teacher_and_student(path):
    (entry,) = entries(path)
    assert ROOT / entry['Config'] == path
    said = entry['Metadata']
    assert said['Training Data'] == data_of(path)[0]
    if not terms(path):
        assert entry['In Collection'] not in ('BCKD', 'PKD')
        return
    kind, _, row = path.stem.partition('_')
    assert entry['In Collection'] == kind.partition('-')[0].upper()
    cfg = config(path)
    assert said['Teacher'] == file_of(cfg.model.teacher).stem
    assert row.endswith(said['Student'])
    local = path.with_name(f'{said["Student"]}.py')
    alone = config(local if local.exists() else upstream(said['Student']))
    # So that its checkpoint is one of the student's own config.
    assert plain(cfg.model.architecture) == plain(alone.model)
    for key in SCHEDULE:
        assert plain(cfg[key]) == plain(alone[key])
    assert plain(cfg.val_evaluator, ('type',)) == plain(
        alone.val_evaluator, ('type',)
    )


def test_page_names_every_folder():
    page = (ROOT / 'configs/mmdet/README.md').read_text()
    for folder in (ROOT / 'configs/mmdet').iterdir():
        assert folder.is_file() or f']({folder.name})' in page
