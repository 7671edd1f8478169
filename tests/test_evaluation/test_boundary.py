"""Boundary scores against masks made by hand and the bare definitions."""

import math

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import METRICS
from mmseg.structures import SegDataSample
from scipy import ndimage

from mmbckd.evaluation.functional.boundary import (
    boundary_counts,
    boundary_region,
    boundary_scores,
    boundary_width,
    contour_pixels,
    sum_counts,
    trimap_band,
)
from mmbckd.evaluation.functional.label_maps import check_label_maps
from mmbckd.evaluation.metrics import BoundaryIoUMetric

CLASSES = ('road', 'car', 'pole', 'never')

# ------------------------------------------------------ naive references


def reference_region(mask, width):
    square = np.ones((3, 3))
    inner = ndimage.binary_erosion(
        mask, square, iterations=width, border_value=0
    )
    return mask & ~inner


def reference_contour(mask, valid):
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask)):
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                out[y, x] |= valid[v, u] and not mask[v, u]
    return out


def reference_near(mask, distance):
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= distance


def reference_band(truth, valid, width):
    band = np.zeros_like(valid)
    for c in np.unique(truth[valid]):
        other = valid & (truth != c)
        band |= valid & (truth == c) & reference_near(other, width)
    return band


def ratio(a, b):
    return a / b if b else math.nan


def reference_scores(pairs, num_classes, width, band_width, tolerance):
    """BIoU, trimap IoU and F1 per class, images put side by side in lists."""
    scores = np.zeros((3, num_classes))
    for c in range(num_classes):
        n = np.zeros(8)
        for prediction, truth in pairs:
            valid = truth != 255
            p, t = valid & (prediction == c), valid & (truth == c)
            pd, td = reference_region(p, width), reference_region(t, width)
            band = reference_band(truth, valid, band_width)
            pc, tc = reference_contour(p, valid), reference_contour(t, valid)
            n += [
                (pd & td).sum(),
                (pd | td).sum(),
                (p & t & band).sum(),
                ((p | t) & band).sum(),
                (pc & reference_near(tc, tolerance)).sum(),
                pc.sum(),
                (tc & reference_near(pc, tolerance)).sum(),
                tc.sum(),
            ]
        precision = n[4] / max(n[5], 1)
        recall = n[6] / max(n[7], 1)
        if n[5] + n[7] == 0:
            f1 = math.nan
        else:
            f1 = (
                2 * precision * recall / (precision + recall)
                if precision + recall
                else 0
            )
        scores[:, c] = ratio(n[0], n[1]), ratio(n[2], n[3]), f1
    return scores


def blobs(rng, size, num_classes=3, grain=4):
    """Random label map of blobs, classes 0 ... num_classes - 1."""
    noise = rng.random((num_classes, *size))
    return ndimage.gaussian_filter(noise, (0, grain, grain)).argmax(0)


def pairs_of_images(count=3, size=(37, 53)):
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        truth = blobs(rng, size)
        prediction = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        noisy = blobs(rng, size)
        prediction = np.where(rng.random(size) < 0.02, noisy, prediction)
        truth[blobs(rng, size, 6) == 0] = 255
        pairs.append((prediction, truth))
    return pairs


def data_samples(pairs):
    return [
        SegDataSample(
            pred_sem_seg=PixelData(data=torch.from_numpy(prediction)[None]),
            gt_sem_seg=PixelData(data=torch.from_numpy(truth)[None]),
        )
        for prediction, truth in pairs
    ]


def evaluate(pairs, **kwargs):
    metric = METRICS.build(dict(type='BoundaryIoUMetric', **kwargs))
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=CLASSES)
    for pair in pairs:
        evaluator.process(data_samples([pair]))
    return evaluator.evaluate(len(pairs))


# ------------------------------------------------------ boundary region


def test_boundary_width_is_the_published_share_of_the_diagonal():
    assert boundary_width(1024, 2048) == 46
    assert boundary_width(720, 960) == 24
    assert boundary_width(10, 10) == 1
    assert boundary_width(100, 100, ratio=0.1) == 14


def test_boundary_region_pixel_for_pixel():
    mask = np.zeros((7, 8), np.uint8)
    mask[1:6, 0:6] = 1  # touches the left border, which counts as outside
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1, 0, 0],
            [1, 0, 0, 0, 0, 1, 0, 0],
            [1, 0, 0, 0, 0, 1, 0, 0],
            [1, 0, 0, 0, 0, 1, 0, 0],
            [1, 1, 1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ]
    )
    assert (boundary_region(mask, 1) == expected).all()
    expected[2:5, 1:5] = 1
    expected[3, 2:4] = 0
    assert (boundary_region(mask, 2) == expected).all()
    assert (boundary_region(mask, 3) == mask).all()


@pytest.mark.parametrize('width', [1, 2, 5, 40])
def test_boundary_region_is_repeated_erosion_with_3x3(width):
    rng = np.random.default_rng(width)
    mask = blobs(rng, (61, 47), 2, grain=8) > 0
    assert (
        boundary_region(mask, width) == reference_region(mask, width)
    ).all()


def test_boundary_region_refuses_no_width():
    with pytest.raises(ValueError, match='at least 1, but got 0'):
        boundary_region(np.ones((2, 2), bool), 0)


# ------------------------------------------------ contour and trimap


def test_contour_knows_neither_image_border_nor_ignored_area():
    mask = np.uint8([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    valid = np.ones_like(mask, bool)
    expected = np.zeros_like(mask)
    expected[:, 3] = 1
    assert (contour_pixels(mask, valid) == expected).all()
    valid[:, 4] = False
    assert not contour_pixels(mask, valid).any()


def test_trimap_band_is_as_wide_on_both_sides_and_round():
    truth = np.zeros((9, 9), np.uint8)
    truth[4, 4] = 1
    y, x = np.mgrid[-4:5, -4:5]
    band = trimap_band(truth, truth < 255, 3)
    assert (band == (np.hypot(y, x) <= 3)).all()
    straight = np.uint8([[0] * 8 + [7] * 8])
    columns = np.flatnonzero(trimap_band(straight, straight < 255, 3))
    assert columns.tolist() == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize('width', [1, 1.5, 5, 12])
def test_trimap_band_is_the_distance_to_another_label(width):
    for _, truth in pairs_of_images():
        truth = truth.astype(np.uint8)
        valid = truth != 255
        band = trimap_band(truth, valid, width)
        assert (band == reference_band(truth, valid, width)).all()


# ------------------------------------------------------------- scores


def test_scores_of_a_shifted_square_by_hand():
    truth = np.zeros((8, 8), int)
    truth[2:6, 2:6] = 1
    prediction = np.roll(truth, 1, axis=1)
    counts = boundary_counts(
        prediction, truth, 2, trimap_widths=[1], tolerances=[1]
    )
    # Two rings of 12 pixels: the rows at top and bottom share 3 pixels each,
    # the columns in between none.
    assert counts.biou[:, 1].tolist() == [6, 18]
    # Band: the true square's ring of 12 and the 16 pixels beside it. The
    # prediction has 8 of the former and, in its last column, 4 of the latter.
    assert counts.trimap[0, :, 1].tolist() == [8, 12 + 4]
    assert counts.contour[0, :, 1].tolist() == [12, 12, 12, 12]


def test_scores_are_those_of_the_definitions():
    pairs = pairs_of_images()
    counts = sum_counts(
        boundary_counts(
            *pair,
            4,
            ratio=3 / math.hypot(37, 53),
            trimap_widths=[2],
            tolerances=[1.5],
        )
        for pair in pairs
    )
    scores = boundary_scores(counts)
    expected = reference_scores(pairs, 4, 3, 2, 1.5)
    assert np.isnan(expected[:, 3]).all() and (expected[:, :3] < 1).all()
    np.testing.assert_allclose(scores.biou, expected[0])
    np.testing.assert_allclose(scores.trimap_iou[0], expected[1])
    np.testing.assert_allclose(scores.f1[0], expected[2])


def test_f1_is_0_for_a_class_in_only_one_map():
    truth = np.zeros((6, 6), int)
    prediction = truth.copy()
    prediction[2:4, 2:4] = 1
    for maps in ((prediction, truth), (truth, prediction)):
        scores = boundary_scores(boundary_counts(*maps, 2, tolerances=[1]))
        assert scores.f1[0].tolist() == [0, 0]
        assert scores.biou[1] == 0


def test_ignored_pixels_of_the_prediction_are_of_no_account():
    prediction, truth = pairs_of_images(1)[0]
    other = np.where(truth == 255, 77, prediction)
    for a, b in zip(
        boundary_counts(prediction, truth, 3), boundary_counts(other, truth, 3)
    ):
        assert (a == b).all()


def test_ignored_pixels_are_taken_out_before_the_erosion():
    truth = np.ones((9, 9), int)
    truth[4, 4] = 255
    prediction = np.ones_like(truth)
    counts = boundary_counts(prediction, truth, 2)
    # The image's frame and the 8 pixels around the ignored one.
    assert counts.biou[:, 1].tolist() == [32 + 8, 32 + 8]
    assert counts.contour.sum() == 0 and counts.trimap.sum() == 0


def test_more_classes_than_a_byte_holds():
    prediction, truth = pairs_of_images(1)[0]
    few = boundary_counts(prediction, truth, 3)
    truth = np.where(truth == 255, -1, truth + 400)
    many = boundary_counts(prediction + 400, truth, 403, ignore_index=-1)
    for a, b in zip(few, many):
        assert (a == b[..., 400:]).all() and not b[..., :400].any()


# ------------------------------------------------------------ checks


@pytest.mark.parametrize(
    'prediction, truth, error, message',
    [
        (np.zeros((2, 3)), np.zeros((2, 3), int), TypeError, 'float64'),
        (np.zeros((2, 3), int), np.zeros((3, 2), int), ValueError, 'one size'),
        (
            np.zeros((1, 2, 3), int),
            np.zeros((2, 3), int),
            ValueError,
            r'\(H, W',
        ),
        (np.zeros((2, 3), int), np.full((2, 3), 4), ValueError, 'but got 4'),
        (np.full((2, 3), -1), np.zeros((2, 3), int), ValueError, 'but got -1'),
    ],
)
def test_wrong_maps_are_named(prediction, truth, error, message):
    with pytest.raises(error, match=message):
        check_label_maps(prediction, truth, 4, 255)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(ratio=0), 'positive and finite'),
        (dict(trimap_widths=(0, 1)), 'at least 1'),
        (dict(tolerances=(1, math.inf)), 'at least 1'),
        (dict(tolerances=(3, 3)), 'differ'),
    ],
)
def test_wrong_options_are_known_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        BoundaryIoUMetric(**options)


# ------------------------------------------------------------- metric


def test_metric_in_an_evaluator(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmbckd.evaluation.metrics.per_class_metric.print_log',
        lambda message, logger=None: lines.append(message),
    )
    pairs = pairs_of_images()
    result = evaluate(
        pairs,
        ratio=3 / math.hypot(37, 53),
        trimap_widths=(2,),
        tolerances=(1.5,),
        prefix='val',
    )
    means = np.nanmean(reference_scores(pairs, 4, 3, 2, 1.5), axis=1)
    assert list(result) == [
        'val/mBIoU',
        'val/trimap_mIoU_2px',
        'val/bF1_1.5px',
        'val/bF1',
    ]
    np.testing.assert_allclose(
        list(result.values()), 100 * means[[0, 1, 2, 2]], atol=0.0051
    )
    assert lines[0] == 'per class results:'
    table = lines[1].strip().splitlines()
    heading = [cell.strip() for cell in table[1].strip('|').split('|')]
    assert heading == ['Class', 'BIoU', 'trimap_IoU_2px', 'bF1_1.5px', 'bF1']
    assert [row.split()[1] for row in table[3:-1]] == list(CLASSES)
    assert table[-2].split()[3] == 'nan'


def test_default_keys():
    assert list(evaluate(pairs_of_images(1))) == [
        'mBIoU',
        'trimap_mIoU_1px',
        'trimap_mIoU_3px',
        'trimap_mIoU_5px',
        'bF1_1px',
        'bF1_3px',
        'bF1_5px',
        'bF1',
    ]
    assert list(
        evaluate(pairs_of_images(1), trimap_widths=(), tolerances=())
    ) == ['mBIoU']


def test_perfect_prediction_scores_100():
    pairs = [
        (np.where(truth == 255, 0, truth), truth)
        for _, truth in pairs_of_images()
    ]
    assert set(evaluate(pairs).values()) == {100.0}


def test_two_ranks_agree_with_one(monkeypatch):
    pairs = pairs_of_images(4)
    expected = evaluate(pairs)
    ranks = []
    for part in (pairs[:1], pairs[1:]):
        metric = BoundaryIoUMetric()
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, [s.to_dict() for s in data_samples(part)])
        ranks.append(metric)
    monkeypatch.setattr(
        'mmengine.evaluator.metric.collect_results',
        lambda results, size, device, **kwargs: [
            result for rank in ranks for result in rank.results
        ][:size],
    )
    assert ranks[0].evaluate(4) == expected


def test_data_samples_of_mmdet_score_the_same():
    pairs = pairs_of_images()
    with DefaultScope.overwrite_default_scope('mmdet'):
        evaluator = Evaluator(dict(type='BoundaryIoUMetric'))
    evaluator.dataset_meta = dict(classes=CLASSES)
    for prediction, truth in pairs:
        sample = DetDataSample()
        sample.pred_sem_seg = PixelData(
            sem_seg=torch.from_numpy(prediction)[None]
        )
        sample.gt_sem_seg = PixelData(
            sem_seg=torch.from_numpy(truth.astype(np.uint8))[None],
            metainfo=dict(ignore_index=255),
        )
        evaluator.process([sample])
    assert evaluator.evaluate(len(pairs)) == evaluate(pairs)


@pytest.mark.parametrize(
    'truth, got',
    [
        (dict(), r'\[\]'),
        (dict(gt_sem_seg=dict(mask=np.zeros((2, 2)))), r"\['mask'\]"),
    ],
)
def test_data_sample_without_a_label_map_is_an_error(truth, got):
    metric = BoundaryIoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    maps = dict(data=torch.zeros(1, 2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match='gt_sem_seg to hold.* got ' + got):
        metric.process({}, [dict(pred_sem_seg=maps, **truth)])


def test_no_images_is_an_error():
    metric = BoundaryIoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(ValueError, match='got no images'):
        metric.compute_metrics([])
