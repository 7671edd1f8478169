"""Whether the figure can be read, and shows what it was given."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from mmbckd.visualization import (
    Boundary,
    Relations,
    Semantics,
    draw_distillation,
    figure,
)

SIZES = [(48, 96), (96, 48), (40, 60)]
KEEP = [
    ('semantics', 'boundary', 'relations'),
    ('semantics', 'boundary'),
    ('semantics', 'relations'),
    ('boundary', 'relations'),
    ('semantics',),
    ('boundary',),
    ('relations',),
    (),
]


def parts(size=SIZES[0], num_classes=5, keep=KEEP[0]):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    truth, prediction = rng.integers(0, num_classes, (2, *size))
    truth[:5] = 255
    names = [f'class number {i}' for i in range(num_classes)]
    rows = rng.random((2, 3, 8, 12))
    rows /= rows.sum(axis=(2, 3), keepdims=True)
    given = dict(
        semantics=Semantics(
            truth, prediction, names, rng.integers(0, 256, (num_classes, 3))
        ),
        boundary=Boundary(*rng.random((2, 12, 20)), 'semantic'),
        relations=Relations(*rows, [(0.3, 0.2), (0.3, 0.5), (0.9, 0.8)]),
    )
    return image, {name: given[name] for name in keep}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, to look into."""
    figures = []

    class Canvas(figure.FigureCanvasAgg):
        def draw(self):
            super().draw()
            figures.append(self.figure)

    monkeypatch.setattr(figure, 'FigureCanvasAgg', Canvas)
    return figures


def title(axes):
    return axes.get_title(loc='left')


def boxes(fig):
    """What must not overlap: panels, color bars, legends and all text."""
    for artist in (*fig.texts, *fig.legends):
        yield artist.get_window_extent()
    for axes in fig.axes:
        yield axes.get_window_extent()
        yield from (
            text.get_window_extent()
            for text in axes.findobj(Text)
            if text.get_text() == title(axes)
        )
        for bar in axes.child_axes:
            yield bar.get_window_extent()
            low, high = bar.get_ylim()
            yield from (
                label.get_window_extent()
                for place, label in zip(
                    bar.get_yticks(), bar.get_yticklabels()
                )
                if low <= place <= high
            )


@pytest.mark.parametrize(
    'size, keep, on_mask',
    [
        *((size, KEEP[0], False) for size in SIZES),
        *((SIZES[0], keep, False) for keep in KEEP[1:]),
        *((SIZES[0], keep, True) for keep in KEEP if 'boundary' in keep),
    ],
)
def test_nothing_overlaps_or_leaves_the_figure(drawn, size, keep, on_mask):
    image, given = parts(size, num_classes=30, keep=keep)
    if on_mask:
        given['boundary'].source = 'mask'
        given['boundary'].truth = given['boundary'].student
    out = draw_distillation(image, 'a.png, iteration 80000', **given)
    height, width = out.shape[:2]
    assert out.dtype == np.uint8 and height < 1500 and width < 2000
    found = list(boxes(drawn[0]))
    for box in found:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    for a, b in itertools.combinations(found, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0, (
            a,
            b,
        )


def test_every_panel_says_what_it_is(drawn):
    image, given = parts()
    draw_distillation(image, 'a.png', **given)
    (fig,) = drawn
    titles = ' | '.join(title(axes) for axes in fig.axes)
    for words in (
        'image',
        'truth',
        'prediction',
        'errors',
        'more than 2 px',
        'student: boundary map B',
        'teacher: edges',
        'semantic',
        'student: relation of pixel 3',
        'teacher: relation of pixel 3',
    ):
        assert words in titles
    classes, errors = (
        [text.get_text() for text in legend.get_texts()]
        for legend in fig.legends
    )
    assert classes == [f'class number {i}' for i in range(5)] + ['ignored']
    assert errors == ['missed boundary', 'spurious boundary', 'broken region']


def test_legend_lists_only_the_classes_of_the_image(drawn):
    image, given = parts(keep=('semantics',))
    given['semantics'].truth[:] = 3
    given['semantics'].prediction[:] = 1
    draw_distillation(image, 'a.png', **given)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [
        'class number 1',
        'class number 3',
    ]


def test_edges_of_labels_are_not_said_to_be_the_teachers(drawn):
    image, given = parts(keep=('boundary',))
    given['boundary'].source = 'label'
    draw_distillation(image, 'a.png', **given)
    assert title(drawn[0].axes[2]).startswith('truth: edges')


@pytest.mark.parametrize('keep', [KEEP[0], KEEP[1], KEEP[3], KEEP[5]])
def test_edges_of_masks_are_drawn_beside_those_of_the_labels(drawn, keep):
    image, given = parts(num_classes=30, keep=keep)
    boundary = given['boundary']
    boundary.source = 'mask'
    boundary.truth = np.flip(boundary.student)
    draw_distillation(image, 'a.png', **given)
    places = {}
    for axes in drawn[0].axes:
        name = title(axes).split('\n')[0]
        if 'edges' in name:
            places[name] = axes.get_position()
            who = name.partition(':')[0]
            assert (axes.images[-1].get_array() == vars(boundary)[who]).all()
    student, truth, teacher = places.values()
    assert list(places) == [
        'student: edges of its class probabilities',
        'truth: edges of its labels',
        'teacher: edges of its class probabilities',
    ]
    assert student.x1 < truth.x0 and student.y0 == truth.y0
    if 'relations' in keep:
        assert teacher.x0 == student.x0 and teacher.y1 < student.y0
    else:
        assert teacher.x0 > truth.x1 and teacher.y0 == truth.y0


def test_panels_show_what_was_given(drawn):
    image, given = parts()
    draw_distillation(image, 'a.png', **given)
    shown = {title(axes): axes.images for axes in drawn[0].axes}
    semantics, boundary = given['semantics'], given['boundary']
    palette = np.array(semantics.palette)
    assert (
        shown['prediction'][0].get_array() == palette[semantics.prediction]
    ).all()
    truth = shown['truth'][0].get_array()
    assert (truth[5:] == palette[semantics.truth[5:]]).all()
    assert set(np.unique(truth[:5])) == {0, 255}  # ignored: stripes
    maps = {
        name.split(' (')[0].split('\n')[0]: images[-1]
        for name, images in shown.items()
    }
    for name, expected in (
        ('student: boundary map B', boundary.student),
        ('teacher: edges of its semantic affinity', boundary.teacher),
    ):
        assert (maps[name].get_array() == expected).all()
        assert maps[name].get_clim() == (0, 1)


@pytest.mark.parametrize('keep', [KEEP[0], ('semantics',)])
def test_prediction_without_truth_is_drawn_without_errors(drawn, keep):
    image, given = parts(keep=keep)
    given['semantics'].truth = None
    draw_distillation(image, 'a.png', **given)
    titles = [title(axes) for axes in drawn[0].axes]
    assert 'prediction' in titles
    assert not any('truth' in t or 'errors' in t for t in titles)
    (legend,) = drawn[0].legends
    assert len(legend.get_texts()) == len(
        np.unique(given['semantics'].prediction)
    )


def test_student_and_teacher_are_drawn_to_the_same_scale(drawn):
    image, given = parts(keep=('relations',))
    relations = given['relations']
    draw_distillation(image, 'a.png', **given)
    maps = [axes.images[-1] for axes in drawn[0].axes[1:]]
    rows = [*relations.student, *relations.teacher]
    for student, teacher in zip(maps[:3], maps[3:]):
        assert student.get_clim() == teacher.get_clim()
    for shown, row in zip(maps, rows):
        np.testing.assert_allclose(shown.get_array(), row * row.size)


def test_maps_of_a_padded_input_lie_where_the_image_is(drawn):
    """Of maps twice as high and half as wide again, a part is shown."""
    image, given = parts((40, 60), keep=KEEP[3])
    draw_distillation(image, 'a.png', coverage=(2, 1.5), **given)
    for axes in drawn[0].axes[1:]:
        assert axes.images[-1].get_extent() == [0, 90, 80, 0]
        assert axes.get_xlim() == (0, 60) and axes.get_ylim() == (40, 0)
    marks = [text.get_position() for text in drawn[0].axes[0].texts]
    np.testing.assert_allclose(marks, [(12, 12), (30, 12), (48, 36)])


def test_drawing_leaves_pyplot_alone():
    from matplotlib import _pylab_helpers

    image, given = parts()
    draw_distillation(image, 'a.png', **given)
    assert not _pylab_helpers.Gcf.get_all_fig_managers()
