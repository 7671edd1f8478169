"""Label affinities of instances: two pixels are alike only in the same one."""

import itertools

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.structures.mask import PolygonMasks
from mmrazor.registry import MODELS

from mmbckd.functional import affinity_edges, boundary_affinity_loss
from mmbckd.models.task_modules.recorders import instance_id_map
from tests.detectors import detector, rectangle, sample

SHAPE = (20, 30)


def random_masks(seed, number=6, shape=SHAPE):
    rng = np.random.default_rng(seed)
    boxes = [
        (
            rng.integers(0, 12),
            rng.integers(0, 20),
            rng.integers(3, 12),
            rng.integers(3, 12),
        )
        for _ in range(number)
    ]
    return [
        rectangle(shape, y, x, y + h, x + w) * rng.integers(0, 2, shape)
        for y, x, h, w in boxes
    ]


def seen_instance(masks, ignored, y, x):
    """The definition, pixel by pixel."""
    covering = [i for i, mask in enumerate(masks) if mask[y, x]]
    if covering:
        return min(covering, key=lambda i: (masks[i].sum(), i))
    return 'ignored' if any(mask[y, x] for mask in ignored) else 'background'


@pytest.mark.parametrize('seed', range(3))
def test_map_shows_the_smallest_instance_of_every_pixel(seed):
    masks, ignored = random_masks(seed), random_masks(seed + 10, number=2)
    ids = instance_id_map(sample(masks, ignored=ignored), (24, 32))
    assert ids.shape == (24, 32)
    owner = {}
    for y, x in itertools.product(*map(range, SHAPE)):
        seen = seen_instance(masks, ignored, y, x)
        assert owner.setdefault(ids[y, x], seen) == seen
    assert owner.pop(0) == 'background' and owner.pop(255) == 'ignored'
    assert len(set(owner.values())) == len(owner)
    # What the batch's shape adds to the image.
    assert (ids[20:] == 255).all() and (ids[:, 30:] == 255).all()


def test_of_two_of_the_same_area_the_first_is_seen():
    first, second = rectangle(SHAPE, 0, 0, 4, 4), rectangle(SHAPE, 2, 2, 6, 6)
    ids = instance_id_map(sample([first, second]), SHAPE)
    assert ids[3, 3] == ids[0, 0] != ids[5, 5]


def test_polygons_give_the_map_of_their_bitmaps():
    polygons = PolygonMasks(
        [
            [np.array([2.0, 2, 22, 2, 22, 18, 2, 18])],
            [
                np.array([5.0, 5, 15, 5, 10, 15]),
                np.array([16.0, 4, 26, 4, 26, 9]),
            ],
        ],
        *SHAPE,
    )
    bitmaps = sample(list(polygons.to_ndarray()))
    as_polygons = sample(list(polygons.to_ndarray()))
    as_polygons.gt_instances.masks = polygons
    expected = instance_id_map(bitmaps, SHAPE)
    assert len(np.unique(expected)) == 3
    assert (instance_id_map(as_polygons, SHAPE) == expected).all()


def test_no_instance_of_a_crowded_image_is_ignored():
    masks = [
        rectangle(SHAPE, *divmod(i, 30), i // 30 + 1, i % 30 + 1)
        for i in range(300)
    ]
    ids = instance_id_map(sample(masks), SHAPE, ignore_index=255)
    assert not (ids == 255).any()
    assert len(np.unique(ids[:10])) == 300 and (ids[10:] == 0).all()


def test_image_without_instances_is_background():
    assert (instance_id_map(sample([], shape=SHAPE), SHAPE) == 0).all()


@pytest.mark.parametrize('poly2mask', [True, False])
def test_crowd_is_ignored_however_its_mask_was_loaded(poly2mask):
    """As polygons are loaded, a crowd keeps its box only."""
    height, width = SHAPE
    crowd = dict(size=[*SHAPE], counts=[0, height * 5, height * 25])
    results = dict(
        ori_shape=SHAPE,
        img_shape=SHAPE,
        img=np.zeros((*SHAPE, 3), np.uint8),
        instances=[
            dict(
                bbox=[2, 2, 8, 8],
                bbox_label=0,
                ignore_flag=0,
                mask=[[2, 2, 8, 2, 8, 8, 2, 8]],
            ),
            dict(bbox=[0, 0, 5, 20], bbox_label=1, ignore_flag=1, mask=crowd),
        ],
    )
    pipeline = Compose(
        [
            dict(
                type='mmdet.LoadAnnotations',
                with_bbox=True,
                with_mask=True,
                poly2mask=poly2mask,
            ),
            dict(type='mmdet.PackDetInputs', meta_keys=('img_shape',)),
        ]
    )
    packed = pipeline(results)
    batch = MODELS.build(dict(type='mmdet.DetDataPreprocessor'))(
        {key: [value] for key, value in packed.items()}
    )
    ids = instance_id_map(batch['data_samples'][0], SHAPE)
    assert (ids[10:, :5] == 255).all() and (ids[:2, :5] == 255).all()
    assert ids[4, 4] == ids[4, 7] not in (0, 255)
    assert (ids[10:, 5:] == 0).all()


# In the distiller


def build(student=None, **boundary):
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student or detector(),
            teacher=detector(base_channels=16),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(student='backbone', source='label', **boundary),
                context=dict(student='neck', teacher='neck'),
            ),
        )
    )


def two_images():
    """Two that touch, of one class, and one of another; an empty image."""
    shape = (60, 64)
    masks = [
        rectangle(shape, 8, 8, 40, 24),
        rectangle(shape, 8, 24, 40, 44),
        rectangle(shape, 44, 20, 56, 40),
    ]
    return [
        sample(masks, labels=[1, 1, 3]),
        sample([], shape=(48, 64), ignored=[rectangle((48, 64), 0, 0, 20, 9)]),
    ]


def step(model, samples):
    """The losses of a batch as the runner makes it, and the boundary map."""
    seen = []
    model.distiller.connectors['boundary_head'].register_forward_hook(
        lambda module, inputs, output: seen.append(output.detach())
    )
    model.train()
    images = [
        torch.randint(0, 256, (3, *each.img_shape), dtype=torch.uint8)
        for each in samples
    ]
    data = model.data_preprocessor(
        dict(inputs=images, data_samples=samples), True
    )
    return model(**data, mode='loss'), seen[0], data['inputs'].shape[-2:]


def line(dy, dx):
    """The pixels of METHOD's discrete straight line, from the origin."""
    n = max(abs(dy), abs(dx))
    return [
        (int(np.floor(dy * k / n + 0.5)), int(np.floor(dx * k / n + 0.5)))
        for k in range(n + 1)
    ]


def brute_force(z, labels, radius, ignore_index):
    """The loss from its definition, pair by pair in float64."""
    z, labels = z.double().numpy(), np.asarray(labels)
    alike, apart = [], []
    reach = range(-int(radius), int(radius) + 1)
    half = [
        (dy, dx)
        for dy in reach
        for dx in reach
        if (dy, dx) > (0, 0) and np.hypot(dy, dx) < radius
    ]
    for n, y, x in itertools.product(*map(range, labels.shape)):
        for dy, dx in half:
            end = y + dy, x + dx
            if not (0 <= end[0] < z.shape[1] and 0 <= end[1] < z.shape[2]):
                continue
            if ignore_index in (labels[n, y, x], labels[(n, *end)]):
                continue
            m = max(z[n, y + v, x + u] for v, u in line(dy, dx))
            if labels[n, y, x] == labels[(n, *end)]:
                alike.append(np.logaddexp(0, m))
            else:
                apart.append(np.logaddexp(0, -m))
    return np.mean(alike) + np.mean(apart)


def test_loss_is_that_of_pairs_in_the_same_instance():
    """Against the definition, from masks to the loss."""
    samples = two_images()
    losses, z, shape = step(
        build(teacher='gt_instances', radius=3.0, ignore_index=7), samples
    )
    assert z.shape == (2, 1, 16, 16)
    labels = np.full((2, *shape), 7)
    labels[1, :48] = 0
    labels[1, :20, :9] = 7
    labels[0, :60] = 0
    for i, mask in enumerate(two_images()[0].gt_instances.masks):
        labels[0, :60][mask > 0] = 100 + i
    expected = brute_force(z[:, 0], labels[:, ::4, ::4], 3.0, 7)
    assert losses['distill.loss_bd'].item() == pytest.approx(
        expected, rel=1e-5
    )


def test_touching_instances_of_a_class_are_separated():
    """Class labels have no edge where these two meet."""
    image = two_images()[0]
    ids = torch.from_numpy(instance_id_map(image, (64, 64)))[None]
    classes = torch.zeros_like(ids)
    for mask, label in zip(
        image.gt_instances.masks, image.gt_instances.labels
    ):
        classes[0, :60][torch.from_numpy(mask) > 0] = label.int() + 1
    z = torch.zeros(1, 1, 64, 64)
    by_instance = affinity_edges(z, ids, source='label')[0, 0]
    by_class = affinity_edges(z, classes, source='label')[0, 0]
    assert (by_instance[10:38, 23:25] == 1).all()
    assert (by_class[10:38, 23:25] == 0).all()
    # And a student that says so is right by the one, wrong by the other.
    wall = torch.full((1, 1, 64, 64), -6.0)
    wall[..., 8:40, 23:25] = 6.0
    blind = torch.full_like(wall, -6.0)
    for labels, better, worse in ((ids, wall, blind), (classes, blind, wall)):
        assert boundary_affinity_loss(
            better, labels, source='label'
        ) < boundary_affinity_loss(worse, labels, source='label')


def test_recorder_in_full_is_the_same_as_its_short_form():
    torch.manual_seed(0)
    short = build(teacher='gt_instances')
    long = build(teacher=dict(type='GroundTruth', source='gt_instances'))
    long.load_state_dict(short.state_dict())
    values = []
    for model in (short, long):
        torch.manual_seed(1)
        values.append(step(model, two_images())[0]['distill.loss_bd'])
    assert torch.equal(*values)


def test_batch_without_masks_is_told_to_load_them():
    samples = two_images()
    for each in samples:
        del each.gt_instances.masks
    with pytest.raises(ValueError, match='gt_instances` with masks'):
        step(build(teacher='gt_instances'), samples)


# Detectors as teachers


def test_teacher_runs_no_head_when_only_its_features_are_recorded():
    model = build(teacher='gt_instances')
    assert model.teacher_forward == 'extract_feat'
    calls = []
    model.teacher.bbox_head.register_forward_hook(
        lambda *_: calls.append('head')
    )
    model.teacher.neck.register_forward_hook(lambda *_: calls.append('neck'))
    losses = step(model, two_images())[0]
    assert calls == ['neck']
    assert losses['distill.loss_cd'] > 0


def test_teacher_runs_its_head_when_that_is_recorded():
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=detector(),
            teacher=detector(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone',
                    teacher='bbox_head.retina_cls',
                    source='feature',
                ),
            ),
        )
    )
    assert model.teacher_forward == 'tensor'
    assert step(model, two_images())[0]['distill.loss_bd'] > 0


def test_classes_of_detectors_are_compared():
    with pytest.raises(ValueError, match='num_classes=4.*num_classes=5'):
        build(student=detector(num_classes=4), teacher='gt_instances')
