"""Boundary AP against masks made by hand and the bare definitions."""

import functools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import METRICS, DefaultScope
from mmengine.structures import InstanceData
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from scipy import ndimage

from mmbckd.evaluation.functional.coco_boundary import (
    BoundaryCOCOeval,
    boundary_rle,
    mask_boundary_iou,
)
from mmbckd.evaluation.metrics import CocoBoundaryMetric

CLASSES = ('cat', 'dog', 'never')
NAMES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
SIZES = dict(mAP_s=(0, 32**2), mAP_m=(32**2, 96**2), mAP_l=(96**2, 1e10))


@dataclass(eq=False)
class Truth:
    mask: np.ndarray
    label: int = 0
    crowd: bool = False
    area: float = None

    def __post_init__(self):
        self.area = int(self.mask.sum()) if self.area is None else self.area


@dataclass(eq=False)
class Detection:
    mask: np.ndarray
    score: float
    label: int = 0


# ------------------------------------------------------ naive references


def reference_region(mask):
    """Mask minus what is farther than d from outside, in steps of a king."""
    height, width = mask.shape
    d = max(1, int(round(0.02 * np.sqrt(height**2 + width**2))))
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), 'chessboard')
    return mask & (distance[1:-1, 1:-1] <= d)


@functools.cache
def reference_iou(detection, truth):

    def iou(p, t):
        return (p & t).sum() / max((p | t).sum(), 1)

    p, t = detection.mask, truth.mask
    if truth.crowd:
        return (p & t).sum() / max(p.sum(), 1)
    return min(iou(p, t), iou(reference_region(p), reference_region(t)))


def reference_matches(truths, detections, threshold, area_range):
    """(score, whether right) of the detections that count in an image."""

    def outside(area):
        return not area_range[0] <= area <= area_range[1]

    taken, counted = set(), []
    for d in sorted(detections, key=lambda d: -d.score)[:100]:
        options = []
        for i, t in enumerate(truths):
            iou = reference_iou(d, t)
            if iou >= threshold and (i not in taken or t.crowd):
                options.append((not t.crowd and not outside(t.area), iou, i))
        if options:
            counts, _, i = max(options)
            taken.add(i)
        else:
            counts = not outside(d.mask.sum())
        if counts:
            counted.append((d.score, bool(options)))
    return counted


def reference_ap(scenes, label, threshold, area_range):
    """AP as COCO defines it, or None without truths."""
    counted, positives = [], 0
    for truths, detections in scenes:
        truths = [t for t in truths if t.label == label]
        detections = [d for d in detections if d.label == label]
        counted += reference_matches(truths, detections, threshold, area_range)
        positives += sum(
            not t.crowd and area_range[0] <= t.area <= area_range[1]
            for t in truths
        )
    if not positives:
        return None
    counted.sort(key=lambda pair: -pair[0])
    right = np.cumsum([r for _, r in counted])
    recall = right / positives
    precision = right / np.arange(1, len(right) + 1)
    return np.mean(
        [
            max(precision[recall >= r], default=0)
            for r in np.linspace(0, 1, 101)
        ]
    )


def reference_scores(scenes, labels=(0, 1, 2)):

    def mean(thresholds, area_range=(0, 1e10)):
        aps = [
            reference_ap(scenes, label, threshold, area_range)
            for label in labels
            for threshold in thresholds
        ]
        aps = [ap for ap in aps if ap is not None]
        return np.mean(aps) if aps else -1

    thresholds = np.linspace(0.5, 0.95, 10)
    scores = dict(
        mAP=mean(thresholds), mAP_50=mean([0.5]), mAP_75=mean([0.75])
    )
    scores.update(
        {name: mean(thresholds, sizes) for name, sizes in SIZES.items()}
    )
    return scores


# ---------------------------------------------- scenes and evaluation


def box(top, left, height, width, size=(200, 200)):
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def shape(rng, size, high):
    """A box or an ellipse, somewhere in the image, maybe cut by its edge."""
    y, x = np.mgrid[: size[0], : size[1]]
    dy = (y - rng.integers(size[0])) / rng.integers(high // 3, high)
    dx = (x - rng.integers(size[1])) / rng.integers(high // 3, high)
    if rng.random() < 0.5:
        return dy**2 + dx**2 <= 1
    return np.maximum(abs(dy), abs(dx)) <= 1


def shifted(rng, masks, reach):
    return [
        Detection(
            np.roll(mask, rng.integers(-reach, reach + 1, 2), (0, 1)),
            rng.random(),
        )
        for mask in masks
    ]


def random_scenes(seed=0, count=6):
    """Shifted, swollen and shrunk truths, some twice, and false alarms."""
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(count):
        size = tuple(rng.integers(150, 220, 2))
        masks = [shape(rng, size, high) for high in (12, 25, 40, 90, 120)]
        truths = [
            Truth(m, rng.integers(2), rng.random() < 0.15) for m in masks
        ]
        detections = []
        for t in truths * 2:
            mask = np.roll(t.mask, rng.integers(-3, 4, 2), (0, 1))
            change = rng.choice(
                [ndimage.binary_dilation, ndimage.binary_erosion]
            )
            mask = change(mask, iterations=rng.integers(1, 4))
            label = t.label if rng.random() < 0.8 else rng.integers(2)
            detections.append(Detection(mask, rng.random(), label))
        detections += [
            Detection(shape(rng, size, 60), rng.random(), rng.integers(2))
            for _ in range(3)
        ]
        scenes.append((truths, [d for d in detections if d.mask.any()]))
    return scenes


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return dict(rle, counts=rle['counts'].decode())


def xyxy(mask):
    x, y, w, h = mask_utils.toBbox(encode(mask)).tolist()
    return [x, y, x + w, y + h]


def data_samples(scenes):
    """What mmdet's evaluator gets, truths included."""
    samples = []
    for img_id, (truths, detections) in enumerate(scenes):
        sample = DetDataSample(
            metainfo=dict(
                img_id=img_id,
                ori_shape=truths[0].mask.shape,
                instances=[
                    dict(
                        bbox=xyxy(t.mask),
                        bbox_label=t.label,
                        mask=encode(t.mask),
                        ignore_flag=int(t.crowd),
                    )
                    for t in truths
                ],
            )
        )
        masks = np.zeros((len(detections), *truths[0].mask.shape), bool)
        for mask, d in zip(masks, detections):
            mask[:] = d.mask
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([xyxy(m) for m in masks]).reshape(-1, 4),
            scores=torch.tensor([d.score for d in detections]).double(),
            labels=torch.tensor([d.label for d in detections]).long(),
            masks=torch.from_numpy(masks),
        )
        samples.append(sample)
    return samples


def coco_json(scenes, segmentation=encode):
    """The truths as a COCO data set, its categories numbered 1, 4, 7."""
    annotations = [
        dict(
            image_id=img_id,
            category_id=3 * int(t.label) + 1,
            iscrowd=int(t.crowd),
            area=t.area,
            bbox=mask_utils.toBbox(encode(t.mask)).tolist(),
            segmentation=segmentation(t.mask),
        )
        for img_id, (truths, _) in enumerate(scenes)
        for t in truths
    ]
    return dict(
        images=[
            dict(
                id=i,
                height=int(t[0].mask.shape[0]),
                width=int(t[0].mask.shape[1]),
            )
            for i, (t, _) in enumerate(scenes)
        ],
        categories=[
            dict(id=3 * i + 1, name=name) for i, name in enumerate(CLASSES)
        ],
        annotations=[dict(a, id=i + 1) for i, a in enumerate(annotations)],
    )


@pytest.fixture
def evaluate(tmp_path):
    """Evaluate scenes as mmdet does, the truth from a file or the samples."""

    def run(scenes, *cfgs, from_file=True, **json_kwargs):
        cfgs = cfgs or [dict(type='CocoBoundaryMetric')]
        if from_file:
            ann_file = tmp_path / 'truth.json'
            ann_file.write_text(json.dumps(coco_json(scenes, **json_kwargs)))
            cfgs = [dict(cfg, ann_file=str(ann_file)) for cfg in cfgs]
        with DefaultScope.overwrite_default_scope('mmdet'):
            evaluator = Evaluator(list(cfgs))
        evaluator.dataset_meta = dict(classes=CLASSES)
        for sample in data_samples(scenes):
            evaluator.process([sample])
        return evaluator.evaluate(len(scenes))

    return run


def boundary(result):
    return {name: result[f'coco/boundary_{name}'] for name in NAMES}


def rounded(scores):
    return {
        name: pytest.approx(score, abs=0.00051)
        for name, score in scores.items()
    }


@pytest.fixture
def log(monkeypatch):
    lines = []
    for level in ('info', 'error'):
        monkeypatch.setattr(
            MMLogger, level, lambda self, message: lines.append(message)
        )
    return lines


# ---------------------------------------------------- boundary and IoU


def test_boundary_of_a_mask_in_its_window_is_that_in_the_whole_image():
    masks = [m.mask for scene in random_scenes() for m in sum(scene, [])]
    masks += [np.zeros((9, 7), bool), np.ones((9, 7), bool)]
    eroded = 0
    for mask in masks:
        expected = reference_region(mask)
        region = mask_utils.decode(boundary_rle(encode(mask)))
        assert (region == expected).all()
        eroded += (expected != mask).any()
    assert eroded > 20


def test_boundary_width_is_a_share_of_the_image_not_of_the_window():
    mask = box(50, 50, 100, 100)  # diagonal 283, so d = 6
    assert mask_utils.area(boundary_rle(encode(mask))) == 100**2 - 88**2
    assert mask_utils.area(boundary_rle(encode(mask), 0.1)) == 100**2 - 44**2


def test_iou_is_the_lesser_of_mask_and_boundary_iou():
    for truths, detections in random_scenes(1):
        iou = mask_boundary_iou(
            [encode(d.mask) for d in detections],
            [encode(t.mask) for t in truths],
            [t.crowd for t in truths],
        )
        expected = [[reference_iou(d, t) for t in truths] for d in detections]
        np.testing.assert_allclose(iou, expected)
        assert ((iou > 0) & (iou < 1)).any()


def test_iou_without_detections_or_truths_has_its_shape():
    mask = encode(box(0, 0, 5, 5))
    assert mask_boundary_iou([], [mask], [0]).shape == (0, 1)
    assert mask_boundary_iou([mask] * 2, [], []).shape == (2, 0)


# ----------------------------------------------------- known Boundary AP

# Mask IoU 96 / 104 = 0.92. The boundary regions share 96 * 100 - 92 * 88
# pixels of 2 * (100**2 - 88**2) - (96 * 100 - 92 * 88), one half.
SQUARE, MOVED = box(50, 50, 100, 100), box(50, 54, 100, 100)
SHIFTED = [([Truth(SQUARE)], [Detection(MOVED, 0.9)])]


def test_shifted_square_matches_at_the_first_threshold_only(evaluate):
    result = evaluate(SHIFTED, dict(type='CocoBoundaryMetric', metric='segm'))
    assert boundary(result) == dict(
        mAP=0.1, mAP_50=1, mAP_75=0, mAP_s=-1, mAP_m=-1, mAP_l=0.1
    )
    assert result['coco/segm_mAP'] == 0.9


def test_crowd_takes_detections_by_their_masks_alone(evaluate):
    truths = [Truth(box(0, 0, 60, 60)), Truth(box(70, 0, 120, 200), crowd=1)]
    detections = [
        Detection(truths[0].mask, 0.5),
        Detection(box(100, 50, 60, 60), 0.9),  # deep inside the crowd
    ]
    assert boundary(evaluate([(truths, detections)]))['mAP'] == 1
    truths[1].crowd = 0
    assert boundary(evaluate([(truths, detections)]))['mAP'] < 0.5


def test_size_of_a_truth_is_its_annotations_area(evaluate):
    scenes = [
        ([Truth(t.mask, area=1000) for t in truths], detections)
        for truths, detections in SHIFTED
    ]
    scores = boundary(evaluate(scenes))
    assert (scores['mAP_s'], scores['mAP_l']) == (0.1, -1)


def test_size_of_a_detection_is_its_masks_not_its_boxs(evaluate):
    square, line = box(0, 0, 100, 100), np.eye(200, dtype=bool)
    scores = boundary(
        evaluate(
            [([Truth(square)], [Detection(square, 0.5), Detection(line, 0.9)])]
        )
    )
    assert (scores['mAP'], scores['mAP_l']) == (0.5, 1)


def test_scores_of_masks_take_precedence():
    square, wrong = box(0, 0, 50, 50), box(100, 100, 50, 50)
    detections = [Detection(wrong, 0.9), Detection(square, 0.5)]
    (sample,) = data_samples([([Truth(square)], detections)])
    metric = CocoBoundaryMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    sample.pred_instances.mask_scores = torch.tensor([0.3, 0.4])
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(1)['coco/boundary_mAP'] == 1


# ------------------------------------------- Boundary AP in all generality


@pytest.mark.parametrize('seed', range(3))
def test_scores_are_those_of_the_definitions(evaluate, seed):
    scenes = random_scenes(seed)
    result = evaluate(scenes, dict(type='CocoBoundaryMetric', metric='segm'))
    expected = reference_scores(scenes)
    assert all(0 < score < 1 for score in expected.values())
    assert boundary(result) == rounded(expected)
    assert result['coco/boundary_mAP'] != result['coco/segm_mAP']


def test_masks_thinner_than_twice_the_width_score_as_by_their_masks(evaluate):
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(5):
        masks = [
            box(
                20 * i,
                rng.integers(90),
                rng.integers(5, 13),
                rng.integers(40, 100),
            )
            for i in range(8)
        ]
        scenes.append(([Truth(m) for m in masks], shifted(rng, masks, 2)))
    result = evaluate(scenes, dict(type='CocoBoundaryMetric', metric='segm'))
    assert 0 < result['coco/segm_mAP'] < 1
    assert boundary(result) == {
        name: result[f'coco/segm_{name}'] for name in NAMES
    }


def test_boundary_ap_is_at_most_mask_ap(evaluate):
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(5):
        masks = [
            box(y, x, *rng.integers(15, 70, 2))
            for y in (10, 110)
            for x in (10, 110)
        ]
        scenes.append(([Truth(m) for m in masks], shifted(rng, masks, 4)))
    result = evaluate(scenes, dict(type='CocoBoundaryMetric', metric='segm'))
    for name, score in boundary(result).items():
        assert score <= result[f'coco/segm_{name}']
    assert result['coco/boundary_mAP'] < result['coco/segm_mAP'] - 0.1


def polygon(mask):
    x, y, right, bottom = xyxy(mask)
    return [[x, y, right, y, right, bottom, x, bottom]]


def uncompressed(mask):
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return dict(size=list(mask.shape), counts=[0] * bool(flat[0]) + counts)


@pytest.mark.parametrize('segmentation', [polygon, uncompressed])
def test_truth_in_any_of_cocos_encodings_scores_the_same(
    evaluate, segmentation
):
    masks = [box(0, 0, 90, 60), box(30, 100, 80, 70), box(150, 0, 50, 200)]
    scenes = [
        (
            [Truth(m) for m in masks],
            [Detection(np.roll(m, 2, 0), 0.5 + m[0, 0]) for m in masks],
        )
    ]
    expected = evaluate(scenes)
    assert 0 < expected['coco/boundary_mAP'] < 1
    assert evaluate(scenes, segmentation=segmentation) == expected


def coco_eval(truths, detections):
    """The evaluation without mmdet, all in image 0."""
    gt = COCO()
    gt.dataset = coco_json([(truths, detections)])
    gt.createIndex()
    dt = gt.loadRes(
        [
            dict(
                image_id=0,
                category_id=3 * d.label + 1,
                score=d.score,
                segmentation=encode(d.mask),
            )
            for d in detections
        ]
    )
    return BoundaryCOCOeval(gt, dt)


def test_detections_beyond_the_maximum_are_left_out():
    wrong, right = box(100, 100, 50, 50), box(0, 0, 50, 50)
    detections = [Detection(right, 0.1)] + [Detection(wrong, 0.9)] * 3
    for max_dets, recall in ((3, 0), (4, 1)):
        evaluation = coco_eval([Truth(right)], detections)
        evaluation.params.maxDets = [1, 2, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        assert evaluation.ious[0, 1].shape == (max_dets, 1)
        assert (evaluation.eval['recall'][:, 0, 0, -1] == recall).all()


def test_categories_can_be_disregarded():
    a, b = box(0, 0, 50, 50), box(100, 100, 50, 50)
    for use_cats, recall in ((1, 0), (0, 1)):
        evaluation = coco_eval(
            [Truth(a, 0), Truth(b, 1)],
            [Detection(a, 0.9, 1), Detection(b, 0.5, 0)],
        )
        evaluation.params.useCats = use_cats
        evaluation.evaluate()
        evaluation.accumulate()
        assert evaluation.eval['recall'].max() == recall


# -------------------------------------------------- metric in an evaluator


def test_beside_and_in_place_of_coco_metric(evaluate):
    scenes = random_scenes()
    coco = dict(type='CocoMetric', metric=['bbox', 'segm'])
    beside = evaluate(scenes, coco, dict(type='CocoBoundaryMetric'))
    assert list(beside) == [
        f'coco/{metric}_{name}'
        for metric in ('bbox', 'segm', 'boundary')
        for name in NAMES
    ]
    assert evaluate(scenes, dict(coco, type='CocoBoundaryMetric')) == beside


def test_truth_of_the_data_samples_does_without_a_file(evaluate):
    scenes = random_scenes()
    for truths, _ in scenes:
        for t in truths:  # mmdet goes by the boxes there
            left, top, right, bottom = xyxy(t.mask)
            t.area = (right - left) * (bottom - top)
    assert evaluate(scenes, from_file=False) == evaluate(scenes)


def test_ratio_reaches_the_boundary(evaluate):
    wide = dict(type='CocoBoundaryMetric', ratio=0.25, metric='segm')
    result = evaluate(SHIFTED, wide)
    assert result['coco/boundary_mAP'] == result['coco/segm_mAP'] == 0.9


def test_classes_are_in_the_log(evaluate, log):
    scenes = random_scenes()
    result = evaluate(scenes, dict(type='CocoBoundaryMetric', classwise=True))
    expected = [reference_scores(scenes, [label]) for label in range(3)]
    for name, scores in zip(CLASSES[:2], expected):
        assert result[f'coco/boundary_{name}_precision'] == pytest.approx(
            scores['mAP'], abs=0.00051
        )
    assert np.isnan(result['coco/boundary_never_precision'])
    table = next(line for line in log if line.startswith('\n+'))
    rows = [
        [cell.strip() for cell in row.strip('|').split('|')]
        for row in table.splitlines()
        if row.startswith('|')
    ]
    assert rows[0] == ['category', *NAMES]
    assert [row[0] for row in rows[1:]] == list(CLASSES)
    for row, scores in zip(rows[1:], expected):
        for cell, score in zip(row[1:], scores.values()):
            assert float(cell) == pytest.approx(
                np.nan if score == -1 else score, abs=0.00051, nan_ok=True
            )
    assert log[-1] == 'boundary_mAP_copypaste: ' + ' '.join(
        f'{score:.3f}' for score in boundary(result).values()
    )


def test_options_of_coco_metric_reach_the_evaluation(evaluate):
    masks = [box(0, 0, 50, 50), box(100, 100, 50, 50)]
    scenes = [([Truth(m) for m in masks], [Detection(m, 0.5) for m in masks])]
    cfg = dict(
        type='CocoBoundaryMetric',
        proposal_nums=(1, 10, 100),
        metric_items=['mAP_75', 'AR@100'],
    )
    # CocoMetric calls the first of the numbers 100, whatever it is.
    assert evaluate(scenes, cfg) == {
        'coco/boundary_mAP_75': 1,
        'coco/boundary_AR@100': 0.5,
    }
    cfg = dict(type='CocoBoundaryMetric', iou_thrs=np.array([0.5]))
    assert evaluate(SHIFTED, cfg)['coco/boundary_mAP'] == 1


def test_two_ranks_agree_with_one(monkeypatch, evaluate):
    scenes = random_scenes()
    expected = evaluate(scenes, from_file=False)
    samples = [sample.to_dict() for sample in data_samples(scenes)]
    ranks = []
    # The sampler gives the second rank the first image again.
    for part in (samples[::2], samples[1::2] + samples[:1]):
        metric = CocoBoundaryMetric()
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, part)
        ranks.append(metric)
    monkeypatch.setattr(
        'mmengine.evaluator.metric.collect_results',
        lambda results, size, device, **kwargs: [
            result for rank in ranks for result in rank.results
        ][:size],
    )
    assert ranks[0].evaluate(len(scenes)) == expected


def test_no_detections_are_logged_as_by_coco_metric(evaluate, log):
    scenes = [(truths, []) for truths, _ in SHIFTED]
    assert evaluate(scenes) == {}
    assert log[-1] == 'The testing results of the whole dataset is empty.'


def test_format_only_writes_and_scores_nothing(evaluate, tmp_path):
    prefix = str(tmp_path / 'results')
    cfg = dict(type='CocoBoundaryMetric', format_only=True)
    assert not evaluate(SHIFTED, dict(cfg, outfile_prefix=prefix))
    (written,) = json.loads((tmp_path / 'results.segm.json').read_text())
    assert written['segmentation'] == encode(SHIFTED[0][1][0].mask)


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmrazor'])
def test_metrics_are_found_from_every_scope(scope):
    names = ['BoundaryIoUMetric', 'CocoBoundaryMetric', 'ConnectivityMetric']
    with DefaultScope.overwrite_default_scope(scope):
        for name in names:
            assert type(METRICS.build(dict(type=name))).__name__ == name


# ----------------------------------------------------------------- checks


def test_detections_without_masks_are_refused_at_once():
    (sample,) = data_samples(SHIFTED)
    del sample.pred_instances.masks
    with pytest.raises(ValueError, match=r'needs `masks`.*\[.bboxes'):
        CocoBoundaryMetric().process({}, [sample.to_dict()])


@pytest.mark.parametrize('mask', [None, []])
def test_truth_without_masks_is_named(mask):
    (sample,) = data_samples(SHIFTED)
    del sample.instances[0]['mask']
    if mask is not None:
        sample.instances[0]['mask'] = mask
    metric = CocoBoundaryMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample.to_dict()])
    with pytest.raises(ValueError, match='annotation 1 of image 0 has no'):
        metric.evaluate(1)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(ratio=0), 'positive and finite'),
        (dict(metric_items=['mAP', 'mIoU']), r"got \['mIoU'\]"),
    ],
)
def test_wrong_options_are_known_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        CocoBoundaryMetric(**options)
