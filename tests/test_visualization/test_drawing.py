"""The colors of errors: where they land, and that they can be told apart."""

import itertools

import cv2
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from mmbckd.evaluation.functional import boundary_errors, broken_regions
from mmbckd.visualization import ERROR_COLORS, draw_errors
from mmbckd.visualization.drawing import dim

MISSED, SPURIOUS, BROKEN = (
    ERROR_COLORS[name]
    for name in ('missed boundary', 'spurious boundary', 'broken region')
)


def scene(height=40, width=60):
    """An image, a prediction that errs in all ways, and the truth."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = np.zeros((height, width), int)
    truth[height // 4 : height // 2, 5 : width // 2] = 1
    truth[-height // 4 :, -width // 4 :] = 255
    prediction = np.zeros_like(truth)
    prediction[height // 4 : height // 2, 5 : width // 4] = 1
    prediction[height // 4 : height // 2, width // 4 + 5 : width // 2 + 6] = 1
    return image, prediction, truth


def is_color(drawing, color):
    return (drawing == color).all(axis=-1)


def test_colors_land_where_the_errors_are():
    image, prediction, truth = scene()
    before = image.copy()
    drawing = draw_errors(image, prediction, truth, 2)
    missed, spurious = boundary_errors(prediction, truth, 2)
    broken = broken_regions(prediction, truth, 2) & ~missed & ~spurious
    assert missed.any() and spurious.any() and broken.any()
    assert drawing.dtype == np.uint8 and drawing.shape == image.shape
    assert (is_color(drawing, MISSED) == missed).all()
    assert (is_color(drawing, SPURIOUS) == (spurious & ~missed)).all()
    gray = (drawing == drawing[..., :1]).all(axis=-1)
    assert (gray == ~(missed | spurious | broken)).all()
    assert (image == before).all()


def test_broken_region_is_tinted_so_that_the_image_shows_through():
    image, prediction, truth = scene()
    drawing = draw_errors(image, prediction, truth, 2).astype(int)
    inside = np.zeros_like(truth, bool)
    inside[14:16, 9:12] = True  # away from all boundaries
    expected = 0.6 * dim(image)[inside] + 0.4 * np.array(BROKEN)
    np.testing.assert_allclose(drawing[inside], expected, atol=1)


def test_right_prediction_is_drawn_without_color():
    image, _, truth = scene()
    prediction = np.where(truth == 255, 0, truth)
    assert (draw_errors(image, prediction, truth, 2) == dim(image)).all()


def test_options_reach_the_definitions():
    image, prediction, truth = scene()
    drawings = [
        draw_errors(image, prediction, truth, 2),
        draw_errors(image, prediction, truth, 2, tolerance=8),
        draw_errors(image, prediction, truth, 2, min_area=500),
        draw_errors(image, prediction, truth, 256, ignore_index=-1),
    ]
    for a, b in itertools.combinations(drawings, 2):
        assert (a != b).any()


def test_lines_of_a_large_image_are_seen_when_it_is_looked_at_whole():
    image, prediction, truth = scene(900, 1500)
    drawing = draw_errors(image, prediction, truth, 2)
    small = cv2.resize(drawing, (300, 180), interpolation=cv2.INTER_AREA)
    for color in (MISSED, SPURIOUS):
        distance = np.abs(small.astype(int) - color).max(axis=-1)
        assert distance.min() < 40


def test_thickness_hides_no_error():
    """Two lines side by side, each thicker than the gap between them."""
    image = np.zeros((900, 1500, 3), np.uint8)
    truth, prediction = np.zeros((2, 900, 1500), int)
    truth[:, 700:] = 1
    prediction[:, 704:] = 1
    missed, spurious = boundary_errors(prediction, truth, 2)
    drawing = draw_errors(image, prediction, truth, 2)
    assert is_color(drawing, MISSED)[missed].all()
    assert is_color(drawing, SPURIOUS)[spurious].all()
    assert is_color(drawing, MISSED).sum() > missed.sum()


# Machado, Oliveira, Fernandes. A Physiologically-based Model for Simulation
# of Color Vision Deficiency. TVCG 2009: severity 1, on linear RGB.
VISION = dict(
    normal=np.eye(3),
    protan=[
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    deutan=[
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    tritan=[
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
)


@pytest.mark.parametrize('vision', VISION)
def test_errors_differ_from_one_another_and_from_the_image(vision):
    """For all kinds of color vision; a difference of 2.3 is just noticed."""

    def seen(rgb):
        c = np.asarray(rgb, float) / 255
        linear = np.where(
            c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4
        )
        c = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
        return rgb2lab(
            np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055)
        )

    values = np.arange(0, 256, 5, dtype=np.uint8)
    gray = dim(np.repeat(values[:, None, None], 3, axis=2))[:, 0]
    tint = 0.6 * gray + 0.4 * np.array(BROKEN)
    for a, b in itertools.combinations(
        (seen(c) for c in ([MISSED], [SPURIOUS], tint, gray)), 2
    ):
        assert deltaE_ciede2000(a[:, None], b[None]).min() > 7


@pytest.mark.parametrize(
    'change, error, message',
    [
        (lambda i, p, t: (i / 255, p, t), TypeError, 'uint8'),
        (lambda i, p, t: (i[:-1], p, t), ValueError, 'image of shape'),
        (
            lambda i, p, t: (i[..., 0], p, t),
            ValueError,
            'image of shape',
        ),
        (lambda i, p, t: (i, p[:-1], t), ValueError, 'one size'),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        draw_errors(*change(*scene()), 2)
