"""Connectivity scores against masks made by hand and scikit-image."""

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmseg.registry import METRICS
from scipy import ndimage
from skimage.measure import euler_number

from mmbckd.evaluation.functional.connectivity import (
    connectivity_counts,
    connectivity_scores,
    label_regions,
)
from mmbckd.evaluation.metrics import ConnectivityMetric

CLASSES = ('back', 'car', 'never')


def drawn(*rows):
    """'#' is class 1, '?' is ignored, the rest class 0."""
    return np.array(
        [[{'#': 1, '?': 255}.get(c, 0) for c in row] for row in rows]
    )


def counts_of_class_1(prediction, truth, **kwargs):
    counts = connectivity_counts(prediction, truth, 3, **kwargs)
    return {name: int(n[1]) for name, n in counts._asdict().items()}


def noise(seed, size=(40, 33), grain=1.0, num_classes=2):
    rng = np.random.default_rng(seed)
    values = rng.random((num_classes, *size))
    return ndimage.gaussian_filter(values, (0, grain, grain)).argmax(0)


# --------------------------------------------------- naive reference


def flood(inside, connectivity):
    """Components as sets of pixels, found by walking."""
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    if connectivity == 8:
        steps += [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(inside))}
    components = []
    while left:
        todo = [left.pop()]
        component = set(todo)
        while todo:
            y, x = todo.pop()
            for dy, dx in steps:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    component.add((y + dy, x + dx))
                    todo.append((y + dy, x + dx))
        components.append(component)
    return components


def reference_topology(mask, min_area):
    regions = [r for r in flood(mask, 8) if len(r) >= min_area]
    background = np.ones(np.add(mask.shape, 2), bool)
    for region in regions:
        for y, x in region:
            background[y + 1, x + 1] = False
    holes = [
        h
        for h in flood(background, 4)
        if (0, 0) not in h and len(h) >= min_area
    ]
    return regions, len(holes)


def reference_counts(prediction, truth, c, min_area=0):
    valid = truth != 255
    p, p_holes = reference_topology(valid & (prediction == c), min_area)
    t, t_holes = reference_topology(valid & (truth == c), min_area)
    whole = 0
    for region in t:
        shares = [len(region & other) for other in p if region & other]
        whole += len(shares) == 1 and 2 * shares[0] >= len(region)
    stray = sum(not any(region & other for other in t) for region in p)
    return len(t), len(p), t_holes, p_holes, whole, stray


# ------------------------------------------------- regions and holes


def test_diagonal_pixels_are_one_region_and_hold_a_hole():
    diamond = drawn('.#.', '#.#', '.#.') == 1
    labels, areas, holes = label_regions(diamond)
    assert (labels == diamond).all()
    assert areas.tolist() == [4] and holes == 1


def test_bay_open_to_the_border_is_no_hole():
    assert label_regions(drawn('###', '#.#', '#.#') == 1)[2] == 0
    assert label_regions(np.ones((3, 3), bool))[2] == 0


def test_nothing_in_an_empty_mask():
    labels, areas, holes = label_regions(np.zeros((4, 5), bool))
    assert not labels.any() and not len(areas) and holes == 0


@pytest.mark.parametrize('grain', [0.3, 1, 3])
def test_regions_minus_holes_is_the_euler_number(grain):
    for seed in range(5):
        mask = noise(seed, (90, 70), grain) > 0
        _, areas, holes = label_regions(mask)
        assert len(areas) - holes == euler_number(mask, connectivity=2)
        assert areas.sum() == mask.sum()


def test_min_area_erases_specks_then_small_holes():
    mask = (
        drawn(
            '#.......',
            '..#####.',
            '..#...#.',
            '..#.#.#.',
            '..#...#.',
            '..#####.',
            '..#.#...',
            '..###...',
        )
        == 1
    )
    assert [len(label_regions(mask, n)[1]) for n in (0, 1, 2)] == [3, 3, 1]
    # Holes of 8 (9 without the speck in it) and of 1 pixel.
    assert [label_regions(mask, n)[2] for n in (0, 1, 2, 9, 10)] == [
        2,
        2,
        1,
        1,
        0,
    ]


# ------------------------------------------------------------- counts


def test_whole_and_stray_by_hand():
    truth = drawn(
        '####..####..##..',
        '####..####..##..',
        '................',
        '####............',
        '####............',
    )
    prediction = drawn(
        '##....#..#..##..',  # half covered; in two pieces; exactly met
        '##....#..#..##..',
        '..............##',  # touches none, but diagonally joins the one above
        '#.....##........',  # less than half covered; stray
        '#...............',
    )
    assert counts_of_class_1(prediction, truth) == dict(
        truth_regions=4,
        pred_regions=6,
        truth_holes=0,
        pred_holes=0,
        whole=2,
        stray=1,
    )


def test_joined_regions_are_whole_but_counted():
    truth = drawn('##.##')
    prediction = drawn('#####')
    counts = counts_of_class_1(prediction, truth)
    assert counts['whole'] == 2
    assert (counts['truth_regions'], counts['pred_regions']) == (2, 1)


def test_ignored_pixels_are_removed_from_both():
    truth = drawn('##?##', '##?##')
    prediction = drawn('#####', '#####')
    assert counts_of_class_1(prediction, truth) == dict(
        truth_regions=2,
        pred_regions=2,
        truth_holes=0,
        pred_holes=0,
        whole=2,
        stray=0,
    )


@pytest.mark.parametrize('min_area', [0, 4])
@pytest.mark.parametrize('grain', [0.4, 1])
def test_counts_are_those_of_the_definitions(grain, min_area):
    seen = np.zeros(6, int)
    for seed in range(4):
        truth = noise(seed, grain=grain, num_classes=3)
        prediction = np.roll(truth, 1, 0)
        spots = np.random.default_rng(seed).random(truth.shape) < 0.1
        prediction[spots] = noise(seed + 9, num_classes=3)[spots]
        truth[noise(seed + 50, num_classes=6) == 0] = 255
        counts = connectivity_counts(prediction, truth, 3, min_area=min_area)
        for c in range(3):
            expected = reference_counts(prediction, truth, c, min_area)
            assert tuple(n[c] for n in counts) == expected
            seen += expected
    assert (seen > 0).all()  # each number was put to the test


def test_negative_min_area_is_an_error():
    with pytest.raises(ValueError, match='min_area to be'):
        ConnectivityMetric(min_area=-1)


# ------------------------------------------------------------- scores

BROKEN = (
    drawn('##.##.', '......', '.....#'),
    drawn('#####.', '......', '......'),
)
ABSENT = (drawn('......'), drawn('......'))
MISSED = (
    drawn('......', '......', '......'),
    drawn('.###..', '.#.#..', '.###..'),
)
PERFECT = (drawn('##.#'), drawn('##.#'))


def test_means_leave_out_images_without_the_class():
    scores = connectivity_scores(
        [
            connectivity_counts(*pair, 3)
            for pair in (BROKEN, ABSENT, MISSED, PERFECT)
        ]
    )
    # Components: 3 for 1, 0 for 1, 2 for 2. Holes: only the missed one.
    assert scores.b0_err[1] == pytest.approx((2 + 1 + 0) / 3)
    assert scores.b1_err[1] == pytest.approx((0 + 1 + 0) / 3)
    assert scores.whole[1] == pytest.approx((0 + 0 + 1) / 3)
    # No fragment was predicted where the class was missed.
    assert scores.stray[1] == pytest.approx((1 / 3 + 0) / 2)
    assert all(np.isnan(score[2]) for score in scores)


def evaluate(pairs, **kwargs):
    metric = METRICS.build(dict(type='ConnectivityMetric', **kwargs))
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=CLASSES)
    for sample in data_samples(pairs):
        evaluator.process([sample])
    return evaluator.evaluate(len(pairs))


def data_samples(pairs):
    return [
        dict(
            pred_sem_seg=dict(data=torch.from_numpy(prediction)[None]),
            gt_sem_seg=dict(data=torch.from_numpy(truth)[None]),
        )
        for prediction, truth in pairs
    ]


def test_metric_in_an_evaluator(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmbckd.evaluation.metrics.per_class_metric.print_log',
        lambda message, logger=None: lines.append(message),
    )
    result = evaluate([BROKEN, PERFECT])
    # Class 0: 1 region for 1, then 1 for 1. Class 1: 3 for 1, then 2 for 2.
    assert result == dict(
        b0_err=0.5, b1_err=0, whole_regions=75.0, stray_fragments=8.33
    )
    table = lines[1].strip().splitlines()
    heading = [cell.strip() for cell in table[1].strip('|').split('|')]
    assert heading == [
        'Class',
        'b0_err',
        'b1_err',
        'whole_regions',
        'stray_fragments',
    ]
    assert [row.split()[1] for row in table[3:-1]] == list(CLASSES)
    assert table[-2].split()[3] == 'nan'


def test_perfect_prediction_has_no_error():
    pairs = [(noise(seed), noise(seed)) for seed in range(3)]
    assert evaluate(pairs) == dict(
        b0_err=0, b1_err=0, whole_regions=100, stray_fragments=0
    )


def test_min_area_reaches_the_counts():
    assert evaluate([BROKEN], min_area=2)['stray_fragments'] == 0
    assert evaluate([BROKEN])['stray_fragments'] > 0


def test_two_ranks_agree_with_one(monkeypatch):
    pairs = [BROKEN, ABSENT, MISSED, PERFECT]
    expected = evaluate(pairs)
    ranks = []
    for part in (pairs[:1], pairs[1:]):
        metric = ConnectivityMetric()
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, data_samples(part))
        ranks.append(metric)
    monkeypatch.setattr(
        'mmengine.evaluator.metric.collect_results',
        lambda results, size, device, **kwargs: [
            result for rank in ranks for result in rank.results
        ][:size],
    )
    assert ranks[0].evaluate(4) == expected
