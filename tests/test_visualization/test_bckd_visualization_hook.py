"""The figures of real runs, and the runs that must not notice them."""

import random
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.registry import VISBACKENDS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import BaseVisBackend
from mmrazor.registry import MODELS

from mmbckd.engine import BCKDVisualizationHook
from mmbckd.engine.hooks import bckd_visualization_hook
from mmbckd.functional import (
    affinity_edges,
    relation_rows,
    semantic_affinity_edges,
)
from tests.detectors import mask_detector, query_detector
from tests.runs import config, names, write_images
from tests.segmentors import query_segmentor

LOGITS = dict(type='ModuleOutputs', source='decode_head.conv_seg')
FEATURE = dict(type='ModuleInputs', source='decode_head.conv_seg')
BOUNDARY = dict(student='backbone', teacher='decode_head.conv_seg')
ON_MASK = dict(type='SemanticAffinityLoss', tau=2.0)
CONTEXT = dict(student=FEATURE, teacher=FEATURE)
LONG_FORM = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(
        stages=dict(type='ModuleOutputs', source='backbone'), feature=FEATURE
    ),
    teacher_recorders=dict(logits=LOGITS, feature=FEATURE),
    connectors=dict(
        head=dict(
            type='HierarchicalBoundaryConnector', in_channels=[4, 8, 16, 32]
        )
    ),
    distill_losses=dict(
        loss_bd=dict(type='BoundaryAffinityLoss', radius=3.0),
        loss_cd=dict(type='ContextRelationLoss', tau=0.2),
    ),
    loss_forward_mappings=dict(
        loss_bd=dict(
            preds_S=dict(
                recorder='stages', from_student=True, connector='head'
            ),
            preds_T=dict(recorder='logits', from_student=False),
        ),
        loss_cd=dict(
            preds_S=dict(recorder='feature', from_student=True, data_idx=0),
            preds_T=dict(recorder='feature', from_student=False, data_idx=0),
        ),
    ),
)
CWD = dict(
    student_recorders=dict(logits=LOGITS),
    teacher_recorders=dict(logits=LOGITS),
    distill_losses=dict(loss_cwd=dict(type='ChannelWiseDivergence')),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    ),
)
BOTH = {'boundary', 'relations'}
ALL = {'semantics', *BOTH}


def run_config(root, distiller=None, hook=None, **kwargs):
    """A run of 4 iterations on 4 images, without anything that seeds it."""
    write_images(root)
    hooks = [dict(type='BCKDVisualizationHook', **hook)] if hook else []
    cfg = config(root, custom_hooks=hooks, **kwargs)
    cfg.default_hooks.checkpoint = None
    if distiller is not None:
        cfg.model.distiller = dict(dict(type='BCKDDistiller'), **distiller)
    return cfg


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, without the time that drawing takes."""
    calls = []

    def draw(image, title, **parts):
        calls.append(dict(parts, image=image, title=title))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(bckd_visualization_hook, 'draw_distillation', draw)
    return calls


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('run')


@pytest.fixture(scope='module')
def runner(root):
    """A runner of a student alone that has no iteration behind it."""
    init_default_scope('mmseg')
    cfg = run_config(root, distill=False)
    cfg.train_cfg.max_iters = 0
    runner = Runner.from_cfg(cfg)
    runner.train()
    runner.train_loop._iter = 1
    return runner


def distill(
    runner, root, distiller, algorithm='FrozenTeacherDistill', test_size=None
):
    """Put a distillation in the place of the runner's model."""
    cfg = config(root).model
    cfg.type = f'mmrazor.{algorithm}'
    cfg.distiller = dict(
        dict(type='BCKDDistiller', _scope_='mmrazor'), **distiller
    )
    if test_size is not None:
        cfg.architecture.data_preprocessor.test_cfg = dict(size=test_size)
    runner.model = MODELS.build(cfg)
    runner.model.train()


def draw(runner, **options):
    hook = BCKDVisualizationHook(**options)
    hook.before_train(runner)
    hook.after_train(runner)


def test_ignored_label_is_that_of_the_validation_set(
    runner, root, drawn, monkeypatch
):
    distill(runner, root, dict(boundary=BOUNDARY))
    draw(runner, indices=[0])
    dataset = runner.val_dataloader.dataset
    monkeypatch.setattr(dataset, 'ignore_index', 5, raising=False)
    draw(runner, indices=[0])
    draw(runner, indices=[0], ignore_index=7)
    found = [call['semantics'].ignore_index for call in drawn]
    assert found == [255, 5, 7]


# ------------------------------------------------------------------ figures


@VISBACKENDS.register_module(force=True)
class KeepingVisBackend(BaseVisBackend):
    """A backend such as TensorBoard's, that keeps what it gets."""

    kept = []

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self

    def add_image(self, name, image, step=0, **kwargs):
        self.kept.append((name, image, step))


def test_figures_reach_all_backends_at_the_interval_and_at_the_end(tmp_path):
    KeepingVisBackend.kept.clear()
    cfg = run_config(
        tmp_path,
        dict(boundary=BOUNDARY, context=CONTEXT),
        hook=dict(interval=3, indices=[2]),
        visualizer=dict(
            type='SegLocalVisualizer',
            name=tmp_path.name,
            vis_backends=[
                dict(type='LocalVisBackend'),
                dict(type='KeepingVisBackend'),
            ],
        ),
    )
    Runner.from_cfg(cfg).train()
    (folder,) = (tmp_path / 'work_dir').glob('*/vis_data/vis_image')
    assert names(folder, '*') == ['bckd_2_2_3.png', 'bckd_2_2_4.png']
    assert [(name, step) for name, _, step in KeepingVisBackend.kept] == [
        ('bckd_2_2', 3),
        ('bckd_2_2', 4),
    ]
    for (_, image, _), path in zip(
        KeepingVisBackend.kept, sorted(folder.iterdir())
    ):
        assert image.dtype == np.uint8 and image.shape[1] > 1000
        assert len(np.unique(image)) > 100
        on_disk = mmcv.imread(str(path), channel_order='rgb')
        assert (on_disk == image).all()


def test_figures_reach_tensorboard(root, runner, drawn, monkeypatch):
    pytest.importorskip('tensorboard')
    from mmengine.visualization import TensorboardVisBackend
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    backend = TensorboardVisBackend(str(root / 'tensorboard'))
    monkeypatch.setattr(runner.visualizer, '_vis_backends', dict(tb=backend))
    draw(runner, indices=[0])
    backend.close()
    events = EventAccumulator(
        str(root / 'tensorboard'), size_guidance=dict(images=0)
    )
    events.Reload()
    assert [image.step for image in events.Images('bckd_0_0')] == [1]


@pytest.mark.parametrize(
    'interval, steps', [(2, [2, 4]), (3, [3, 4]), (9, [4])]
)
def test_end_is_drawn_once(interval, steps, monkeypatch):
    hook = BCKDVisualizationHook(interval=interval)
    found = []
    monkeypatch.setattr(
        hook, '_draw_images', lambda runner, step: found.append(step)
    )
    for i in range(4):
        hook.after_train_iter(SimpleNamespace(iter=i), batch_idx=i)
    hook.after_train(SimpleNamespace(iter=4))
    assert found == steps


# ------------------------------------------------------- all kinds of models


@pytest.mark.parametrize(
    'distiller, expected',
    [
        (dict(boundary=BOUNDARY, context=CONTEXT), ALL),
        (dict(boundary=BOUNDARY), ALL - {'relations'}),
        (dict(boundary=ON_MASK, context=CONTEXT), ALL),
        (dict(context=dict(CONTEXT, max_tokens=16)), ALL - {'boundary'}),
        (
            dict(boundary=dict(student='backbone', source='label')),
            ALL - {'relations'},
        ),
        (
            dict(
                boundary=dict(
                    student='backbone', teacher='neck', source='feature'
                ),
                context=dict(student='neck', teacher='neck'),
            ),
            ALL,
        ),
        (dict(boundary=BOUNDARY, context=CONTEXT, **CWD), ALL),
        (CWD, {'semantics'}),
        (LONG_FORM, ALL),
    ],
    ids=[
        'both',
        'boundary',
        'on the mask',
        'context',
        'label',
        'feature',
        'cwd beside',
        'cwd alone',
        'long form',
    ],
)
def test_each_distillation_is_drawn_with_what_it_has(
    root, runner, drawn, distiller, expected
):
    distill(runner, root, distiller)
    draw(runner, indices=[1])
    (call,) = drawn
    assert {k for k in ALL if call.get(k) is not None} == expected
    if 'boundary' in expected:
        boundary = call['boundary']
        assert boundary.student.shape == boundary.teacher.shape == (8, 8)
        for values in (boundary.student, boundary.teacher):
            assert 0 <= values.min() < values.max() <= 1
    if 'relations' in expected:
        relations = call['relations']
        assert relations.student.shape == relations.teacher.shape
        for rows in (relations.student, relations.teacher):
            assert len(rows) == 3
            np.testing.assert_allclose(rows.sum((1, 2)), 1, rtol=1e-5)


def test_mmrazors_own_algorithm_is_drawn_as_well(root, runner, drawn):
    distill(runner, root, LONG_FORM, 'SingleTeacherDistill')
    draw(runner, indices=[1])
    assert set(drawn[0]) >= BOTH


def test_model_without_distillation_is_drawn_with_its_errors(
    root, runner, drawn
):
    runner.model = MODELS.build(config(root, distill=False).model)
    draw(runner, indices=[1])
    (call,) = drawn
    assert BOTH.isdisjoint(call) and call['title'] == '1.jpg, iteration 1'
    semantics = call['semantics']
    truth = mmcv.imread(str(root / 'ann' / '1.png'), 'unchanged')
    assert (semantics.truth == truth).all()
    metainfo = runner.val_dataloader.dataset.metainfo
    assert semantics.classes == metainfo['classes']
    assert semantics.palette == metainfo['palette']
    image = mmcv.imread(str(root / 'img' / '1.jpg'), channel_order='rgb')
    assert (call['image'] == image).all()


def query_model(detector: bool) -> dict:
    """A Mask2Former of mmdet or mmseg."""
    if not detector:
        return query_segmentor()
    model = query_detector()
    model['test_cfg'] = dict(panoptic_on=True, instance_on=False)
    return model


@pytest.mark.parametrize('detector', [False, True])
def test_student_that_classifies_masks_is_drawn(
    root, runner, drawn, monkeypatch, detector
):
    """Its head takes data samples, and mmdet has a name of its own for the
    map of labels."""
    logits = dict(
        type='MaskClassLogits',
        source='panoptic_head' if detector else 'decode_head',
    )
    model = query_model(detector)
    runner.model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=model,
            teacher=model,
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    type='SemanticAffinityLoss', student=logits, teacher=logits
                ),
            ),
        )
    ).train()
    if detector:
        dataset = Detections(str(root / 'img' / '1.jpg'))
        sample = dataset[0]['data_samples']
        del sample.gt_instances
        sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, 30, 45).long())
        sample.gt_sem_seg.sem_seg[..., 20:] = 1
        loader = SimpleNamespace(dataset=dataset, collate_fn=pseudo_collate)
        monkeypatch.setattr(runner.val_loop, 'dataloader', loader)
    draw(runner, indices=[0])
    (call,) = drawn
    assert (call['semantics'] is None) == detector
    assert call['boundary'].truth.any()


def detector():
    """A small RetinaNet on a ResNet-18."""
    model = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.bbox_head.update(
        num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1
    )
    return dict(model, _scope_='mmdet')


class Detections(list):
    """An image of 60x90, padded to 64x96, with a box."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, img_path):
        sample = DetDataSample(
            metainfo=dict(
                img_path=img_path,
                img_shape=(60, 90),
                ori_shape=(30, 45),
                scale_factor=(2.0, 2.0),
            ),
            gt_instances=InstanceData(
                bboxes=torch.tensor([[10.0, 10.0, 50.0, 40.0]]),
                labels=torch.tensor([1]),
            ),
        )
        image = torch.randint(256, (3, 60, 90), dtype=torch.uint8)
        super().__init__([dict(inputs=image, data_samples=sample)])


def test_detector_is_drawn_without_label_maps(
    root, runner, drawn, monkeypatch
):
    runner.model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=detector(),
            teacher=detector(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone', teacher='neck', source='feature'
                ),
                context=dict(student='neck', teacher='neck'),
            ),
        )
    )
    loader = SimpleNamespace(
        dataset=Detections(str(root / 'img' / '0.jpg')),
        collate_fn=pseudo_collate,
    )
    monkeypatch.setattr(runner.val_loop, 'dataloader', loader)
    draw(runner, indices=[0])
    (call,) = drawn
    assert call['semantics'] is None and call['coverage'] == (64 / 60, 96 / 90)
    assert call['boundary'].student.shape == (16, 24)
    # The finest level of the FPN.
    assert call['relations'].student.shape == (3, 8, 12)


class Instances(Detections):
    """An image of 30x45 with an instance and a crowd, through a pipeline."""

    def __init__(self, img_path, steps):
        steps = [
            dict(steps[type_], type=f'mmdet.{type_}')
            if type_ in steps
            else dict(type=f'mmdet.{type_}')
            for type_ in steps
        ]
        pack = dict(
            type='mmdet.PackDetInputs',
            meta_keys=('img_path', 'img_shape', 'ori_shape', 'scale_factor'),
        )
        crowd = dict(size=[30, 45], counts=[0, 30 * 5, 30 * 40])
        list.__init__(
            self,
            [
                Compose([*steps, pack])(
                    dict(
                        img_path=img_path,
                        img=np.zeros((30, 45, 3), np.uint8),
                        img_shape=(30, 45),
                        ori_shape=(30, 45),
                        instances=[
                            dict(
                                bbox=[10, 6, 34, 20],
                                bbox_label=1,
                                ignore_flag=0,
                                mask=[[10, 6, 34, 6, 34, 20, 10, 20]],
                            ),
                            dict(
                                bbox=[0, 0, 5, 30],
                                bbox_label=1,
                                ignore_flag=1,
                                mask=crowd,
                            ),
                        ],
                    )
                )
            ],
        )


RESIZE = dict(Resize=dict(scale=(90, 60), keep_ratio=True))


def load(poly2mask):
    return dict(
        LoadAnnotations=dict(
            with_bbox=True, with_mask=True, poly2mask=poly2mask
        )
    )


@pytest.mark.parametrize('poly2mask', [True, False])
@pytest.mark.parametrize(
    'steps',
    [
        lambda load: {**load, **RESIZE},
        lambda load: {**RESIZE, **load},
        lambda load: {**RESIZE, 'Pad': dict(size=(96, 64)), **load},
    ],
    ids=['loaded first', 'loaded last', 'and padded'],
)
def test_instances_are_drawn_where_they_are_in_the_image(
    root, runner, drawn, monkeypatch, steps, poly2mask
):
    runner.model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=detector(),
            teacher=detector(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone', teacher='gt_instances', source='label'
                ),
            ),
        )
    )
    loader = SimpleNamespace(
        dataset=Instances(str(root / 'img' / '0.jpg'), steps(load(poly2mask))),
        collate_fn=pseudo_collate,
    )
    monkeypatch.setattr(runner.val_loop, 'dataloader', loader)
    draw(runner, indices=[0])
    # All coordinates twice those of the file, then those of the stride.
    labels = torch.zeros(1, 64, 96, dtype=torch.long)
    labels[:, 12:40, 20:68] = 1
    labels[:, :60, :10] = 255
    if runner.val_dataloader.dataset[0]['data_samples'].img_shape == (60, 90):
        labels[:, 60:] = labels[..., 90:] = 255
    expected = affinity_edges(
        torch.zeros(1, 1, 16, 24), labels, source='label'
    )[0, 0]
    assert 0 < expected.mean() < 1
    found = drawn[0]['boundary'].teacher
    np.testing.assert_array_equal(found, expected)


def test_labels_are_drawn_where_they_are_in_a_padded_input(
    root, runner, drawn
):
    """Padded from 32x32 to 64x48, at the bottom and on the right."""
    distill(
        runner,
        root,
        dict(boundary=dict(student='backbone', source='label')),
        test_size=(64, 48),
    )
    draw(runner, indices=[1])
    labels = torch.full((1, 64, 48), 255)
    labels[:, :32, :32] = torch.from_numpy(
        mmcv.imread(str(root / 'ann' / '1.png'), 'unchanged')
    )
    expected = affinity_edges(
        torch.zeros(1, 1, 16, 12), labels, source='label'
    )[0, 0]
    np.testing.assert_array_equal(drawn[0]['boundary'].teacher, expected)


# ----------------------------------------------------------- without a truth


@pytest.mark.parametrize(
    'distiller, expected',
    [
        (None, {'semantics'}),
        (dict(boundary=BOUNDARY, context=CONTEXT), ALL),
        (
            dict(
                boundary=dict(student='backbone', source='label'),
                context=CONTEXT,
            ),
            ALL - {'boundary'},
        ),
        (dict(boundary=ON_MASK), ALL - {'relations'}),
        (LONG_FORM, ALL),
    ],
    ids=['alone', 'both', 'label', 'on the mask', 'long form'],
)
def test_training_goes_on_without_annotations_of_the_validation_data(
    tmp_path, drawn, distiller, expected
):
    cfg = run_config(
        tmp_path,
        distiller,
        dict(interval=2, indices=[1, 2]),
        distill=distiller is not None,
    )
    cfg.train_cfg.val_begin = 9  # its metrics would need the truth
    del cfg.val_dataloader.dataset.pipeline[1]
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 4 and len(drawn) == 4
    for call in drawn:
        assert {k for k in ALL if call.get(k) is not None} == expected
        assert call['semantics'].truth is None
        if 'boundary' in call:
            assert call['boundary'].truth is None
        assert call['semantics'].prediction.shape == (32, 32)
    (log,) = (tmp_path / 'work_dir').glob('*/*.log')
    assert log.read_text().count('leaves out the truth') == 1


@pytest.mark.parametrize(
    'boundary, said',
    [
        (dict(teacher='neck', source='feature'), 0),
        (dict(teacher='gt_instances', source='label'), 1),
    ],
)
def test_detector_is_drawn_without_annotations(
    root, runner, drawn, monkeypatch, boundary, said
):
    runner.model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=detector(),
            teacher=detector(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(student='backbone', **boundary),
                context=dict(student='neck', teacher='neck'),
            ),
        )
    )
    loader = SimpleNamespace(
        dataset=Instances(str(root / 'img' / '0.jpg'), RESIZE),
        collate_fn=pseudo_collate,
    )
    monkeypatch.setattr(runner.val_loop, 'dataloader', loader)
    told = []
    monkeypatch.setattr(
        bckd_visualization_hook,
        'print_log',
        lambda text, **_: told.append(text),
    )
    draw(runner, indices=[0, 0])
    assert len(drawn) == 2 and len(told) == said
    assert all(
        ('boundary' in call) == (not said) and 'relations' in call
        for call in drawn
    )


def test_features_of_boxes_are_left_out(root, runner, drawn, monkeypatch):
    boxes = dict(type='InstanceFeatures')
    runner.model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=mask_detector(),
            teacher=mask_detector(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone', teacher='neck', source='feature'
                ),
                context=dict(student=boxes, teacher=boxes),
            ),
        )
    )
    loader = SimpleNamespace(
        dataset=Detections(str(root / 'img' / '0.jpg')),
        collate_fn=pseudo_collate,
    )
    monkeypatch.setattr(runner.val_loop, 'dataloader', loader)
    draw(runner, indices=[0])
    (call,) = drawn
    assert 'boundary' in call and 'relations' not in call


def test_drawn_are_the_tensors_of_the_losses_in_eval_mode(root, runner, drawn):
    distill(
        runner,
        root,
        dict(
            boundary=dict(BOUNDARY, tau=2.0),
            context=dict(CONTEXT, tau=0.2, exclude_self=True),
        ),
    )
    points = [(0.1, 0.6)]
    draw(runner, indices=[2], points=points)
    model = runner.model.eval()
    student, teacher = model.student, model.teacher
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.update(
            {name: (inputs[0], output)}
        )

    student.backbone.register_forward_hook(keep('backbone'))
    student.decode_head.conv_seg.register_forward_hook(keep('student'))
    teacher.decode_head.conv_seg.register_forward_hook(keep('teacher'))
    sample = runner.val_dataloader.dataset[2]
    data = model.data_preprocessor(
        dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    )
    with torch.no_grad():
        teacher(data['inputs'], mode='tensor')
        logits = student(data['inputs'], mode='tensor')
        z = model.distiller.connectors['boundary_head'](seen['backbone'][1])
    edges = affinity_edges(z, seen['teacher'][1], tau=2.0)
    rows = relation_rows(
        seen['student'][0],
        seen['teacher'][0],
        points,
        tau=0.2,
        exclude_self=True,
    )
    (call,) = drawn
    for found, expected in (
        (call['boundary'].student, z.sigmoid()[0, 0]),
        (call['boundary'].teacher, edges[0, 0]),
        (call['relations'].student, rows[0][0]),
        (call['relations'].teacher, rows[1][0]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    logits = F.interpolate(logits, size=(32, 32), mode='bilinear')
    assert (call['semantics'].prediction == logits[0].argmax(0).numpy()).all()


def test_edges_of_both_masks_and_of_the_labels_are_drawn(root, runner, drawn):
    """Padded from 32x32 to 64x48, at the bottom and on the right."""
    distill(runner, root, dict(boundary=ON_MASK), test_size=(64, 48))
    draw(runner, indices=[1])
    model = runner.model.eval()
    sample = runner.val_dataloader.dataset[1]
    image = model.data_preprocessor(
        dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    )['inputs']
    with torch.no_grad():
        logits = [
            network(image, mode='tensor')
            for network in (model.student, model.teacher)
        ]
    edges = semantic_affinity_edges(*logits, tau=2.0)
    labels = torch.full((1, 64, 48), 255)
    labels[:, :32, :32] = torch.from_numpy(
        mmcv.imread(str(root / 'ann' / '1.png'), 'unchanged')
    )
    of_labels = affinity_edges(logits[0][:, :1], labels, source='label')
    boundary = drawn[0]['boundary']
    assert boundary.source == 'mask'
    for found, expected in (
        (boundary.student, edges[0]),
        (boundary.teacher, edges[1]),
        (boundary.truth, of_labels),
    ):
        assert 0 < expected.mean() < 1
        np.testing.assert_allclose(found, expected[0, 0], rtol=1e-4, atol=1e-6)


def test_points_of_a_padded_input_stay_where_they_are_in_the_image(
    root, runner, drawn
):
    """Padded from 32x32 to 64x48, at the bottom and on the right."""
    distill(runner, root, dict(context=CONTEXT), test_size=(64, 48))
    draw(runner, indices=[1], points=[(0.1, 0.9)])
    (call,) = drawn
    assert call['coverage'] == (2, 1.5)
    assert call['relations'].points == [(0.1, 0.9)]
    row = call['relations'].student[0]
    assert row.shape == (16, 12)
    assert np.unravel_index(row.argmax(), row.shape) == (0, 7)


# ------------------------------------------------- training is not disturbed


@pytest.mark.parametrize(
    'distiller',
    [
        dict(boundary=BOUNDARY, context=CONTEXT),
        LONG_FORM,
    ],
    ids=['short form', 'long form'],
)
def test_training_is_bit_by_bit_that_of_a_run_without_the_hook(
    tmp_path, drawn, distiller
):
    """With dropout and random flips, and nothing that seeds them."""
    runs = []
    for hook in (None, dict(interval=1, num_images=1)):
        cfg = run_config(tmp_path, distiller, hook)
        cfg.model.architecture.decode_head.dropout_ratio = 0.5
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.pipeline.insert(
                2, dict(type='RandomFlip', prob=0.5)
            )
        runner = Runner.from_cfg(cfg)
        runner.train()
        losses = {
            name: buffer.data[0].tolist()
            for name, buffer in runner.message_hub.log_scalars.items()
            if 'loss' in name
        }
        runs.append((losses, runner.model.state_dict()))
    (losses, weights), (other_losses, other_weights) = runs
    assert len(drawn) == 4
    assert {'train/distill.loss_bd', 'train/distill.loss_cd'} <= set(losses)
    assert losses == other_losses
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[k], other_weights[k]) for k in weights)


def state(model):
    """All that training depends on, and what the distiller holds."""
    recorders = [
        recorder
        for manager in (
            model.distiller.student_recorders,
            model.distiller.teacher_recorders,
        )
        for recorder in manager.recorders.values()
    ]
    return dict(
        modes=[m.training for m in model.modules()],
        forwards=[m.forward for m in model.modules()],
        hooks=[len(m._forward_hooks) for m in model.modules()],
        weights=[t.clone() for t in model.state_dict().values()],
        gradients=[p.grad.clone() for p in model.student.parameters()],
        torch=[torch.get_rng_state()],
        numpy=np.random.get_state()[2],  # how many have been drawn
        python=random.getstate(),
        recorded=[len(r.data_buffer) for r in recorders],
        grad_enabled=torch.is_grad_enabled(),
    )


@pytest.mark.parametrize(
    'distiller',
    [
        dict(boundary=BOUNDARY, context=CONTEXT),
        LONG_FORM,
    ],
    ids=['short form', 'long form'],
)
def test_nothing_is_left_behind(root, runner, drawn, monkeypatch, distiller):
    """Though computing the figures draws random numbers of all kinds."""
    distill(runner, root, distiller)
    model = runner.model
    model.student.backbone.eval()  # a mode that is not the model's
    loader = runner.train_dataloader
    batch = loader.collate_fn([loader.dataset[i] for i in (0, 1)])
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    model.parse_losses(losses)[0].backward()

    def val_step(data, real=model.val_step):
        torch.rand(1), np.random.rand(), random.random()
        return real(data)

    monkeypatch.setattr(model, 'val_step', val_step)
    before = state(model)
    draw(runner, indices=[0])
    after = state(model)
    assert len(drawn) == 1 and set(before['modes']) == {True, False}
    for key, value in before.items():
        if isinstance(
            value[0] if isinstance(value, list) else 0, torch.Tensor
        ):
            assert all(map(torch.equal, value, after[key])), key
        else:
            assert value == after[key], key


def test_error_while_drawing_leaves_nothing_behind_either(
    root, runner, monkeypatch
):
    distill(runner, root, dict(boundary=BOUNDARY))
    model = runner.model

    def fail(*args, **kwargs):
        raise RuntimeError('on purpose')

    monkeypatch.setattr(
        model.distiller.connectors['boundary_head'], 'forward_train', fail
    )
    with pytest.raises(RuntimeError, match='on purpose'):
        draw(runner, indices=[0])
    assert model.training and model.student.backbone.training
    assert 'forward' not in vars(model.distiller.distill_losses['loss_bd'])


def test_only_the_main_process_draws_but_all_compute(
    root, runner, drawn, monkeypatch
):
    """Losses may communicate: one process alone would wait for ever."""
    distill(runner, root, dict(boundary=BOUNDARY))
    ran = []
    runner.model.student.register_forward_hook(lambda *_: ran.append(1))
    monkeypatch.setattr(
        bckd_visualization_hook, 'is_main_process', lambda: False
    )
    draw(runner, indices=[0])
    assert len(ran) == 2 and not drawn


# ------------------------------------------------------------------- options


def runner_of(num_images):
    dataloader = SimpleNamespace(dataset=range(num_images))
    return SimpleNamespace(val_loop=True, val_dataloader=dataloader)


@pytest.mark.parametrize(
    'num_images, expected',
    [(1, [50]), (2, [25, 75]), (3, [16, 50, 83]), (100, list(range(100)))],
)
def test_images_are_evenly_spaced(num_images, expected):
    hook = BCKDVisualizationHook(num_images=num_images)
    hook.before_train(runner_of(100))
    assert hook.indices == expected


@pytest.mark.parametrize(
    'length, expected', [(2, [0, 1]), (100, [16, 50, 83])]
)
def test_by_default_three_images_are_drawn_if_there_are_as_many(
    length, expected
):
    hook = BCKDVisualizationHook()
    hook.before_train(runner_of(length))
    assert hook.indices == expected


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(interval=0), 'interval'),
        (dict(num_images=0), 'num_images'),
        (dict(num_images=1.5), 'num_images'),
        (dict(indices=[]), 'indices'),
        (dict(indices=3), 'indices'),
        (dict(indices=[1], num_images=1), 'both'),
        (dict(points=[(0.5, 1.5)]), 'points'),
        (dict(points=[]), 'points'),
        (dict(tolerance=0.2), 'at least 1'),
        (dict(min_area=-1), 'min_area'),
    ],
)
def test_wrong_options_are_named_when_the_hook_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        BCKDVisualizationHook(**options)


@pytest.mark.parametrize(
    'options, runner, message',
    [
        (dict(num_images=5), runner_of(4), 'num_images=5.*got 4'),
        (dict(indices=[1, 4]), runner_of(4), 'from 0 to 3.*got 4'),
        (dict(indices=[-1]), runner_of(4), 'from 0 to 3.*got -1'),
        (dict(), SimpleNamespace(val_loop=None), 'val_dataloader'),
    ],
)
def test_images_that_are_not_there_are_named_before_training(
    options, runner, message
):
    with pytest.raises(ValueError, match=message):
        BCKDVisualizationHook(**options).before_train(runner)
