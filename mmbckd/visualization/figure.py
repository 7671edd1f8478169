"""One figure of what student and teacher make of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from .drawing import ERROR_COLORS, dim, draw_errors

# Pixels.
_PANEL = 310  # the longer side of a panel
_BAR = 55  # right of a panel, for its color bar
_TITLE = 270  # at least, however narrow a panel
_LINE = 17  # of text
_CHARACTER = 6.5  # of text, on average
_KEY = 60  # beside a name in a legend: its color, and gaps
_MARGIN = 12

_DPI = 100
_FONT_SIZE = 9
_HEAT = 'viridis'


@dataclass
class Semantics:
    """Label maps of an image, what they mean, and how to compare them.

    Attributes:
        truth (ndarray | None): True class of every pixel, or
            ``ignore_index``, integers, (H, W). With None the prediction is
            drawn without its errors.
        prediction (ndarray): Predicted class of every pixel, integers,
            (H, W).
        classes (Sequence[str]): Names of the classes.
        palette (Sequence[Sequence[int]]): RGB colors of the classes.
        tolerance (float): See :func:`draw_errors`. Defaults to 2.0.
        min_area (int): See :func:`draw_errors`. Defaults to 0.
        ignore_index (int): Label of ignored pixels. Defaults to 255.
    """

    truth: ndarray | None
    prediction: ndarray
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    tolerance: float = 2.0
    min_area: int = 0
    ignore_index: int = 255


@dataclass
class Boundary:
    """What the boundary term compares.

    Attributes:
        student (ndarray): The boundary map B, from 0 to 1, (h, w); on the
            mask, the edges of the student's affinities.
        teacher (ndarray): The affinities as edges, from 0 to 1, (h, w); see
            :func:`mmbckd.functional.affinity_edges` and
            :func:`mmbckd.functional.semantic_affinity_edges`.
        source (str): What the affinities are taken from; ``'mask'`` if from
            the class probabilities of both.
        truth (ndarray | None): The edges of the labels, (h, w), to be drawn
            between those of the student and the teacher. Defaults to None.
    """

    student: ndarray
    teacher: ndarray
    source: str
    truth: ndarray | None = None


@dataclass
class Relations:
    """What the context term compares, for Q pixels.

    Attributes:
        student (ndarray): The pixels' rows of the relation, (Q, h, w); see
            :func:`mmbckd.functional.relation_rows`.
        teacher (ndarray): The same of the teacher.
        points (Sequence[tuple[float, float]]): Where the pixels are, (y, x)
            as fractions of the image's height and width.
    """

    student: ndarray
    teacher: ndarray
    points: Sequence[tuple[float, float]]


def draw_distillation(
    image: ndarray,
    title: str,
    *,
    semantics: Semantics | None = None,
    boundary: Boundary | None = None,
    relations: Relations | None = None,
    coverage: tuple[float, float] = (1.0, 1.0),
) -> ndarray:
    """Draw an image and what there is of the rest, each in a titled panel.

    Args:
        image (ndarray): The image in RGB, uint8.
        title (str): Title of the figure.
        semantics (Semantics | None): Gives the truth, the prediction and
            its errors. Defaults to None.
        boundary (Boundary | None): Gives the student's boundary map and
            the teacher's edges. Defaults to None.
        relations (Relations | None): Gives the relations of a few pixels
            to all others, in student and teacher. Defaults to None.
        coverage (tuple[float, float]): Height and width that the maps of
            ``boundary`` and ``relations`` cover, as multiples of the image's.
            More than 1 where the image was padded, at its bottom and right.
            Defaults to (1.0, 1.0).

    Returns:
        ndarray: The figure in RGB, uint8.

    Shape:
        - image: (H, W, 3)
        - output: (H', W', 3), about 1500 pixels wide with three points
    """
    marks = dict(enumerate(relations.points, 1)) if relations else {}
    which = f', with pixels 1 to {len(marks)}' if marks else ''
    first = [_Panel(f'image{which}', image, marks=marks)]
    student: list[_Panel | None] = []
    teacher: list[_Panel | None] = []
    legends: list[list[Patch]] = []
    if semantics is not None:
        first += _semantic_panels(image, semantics)
        legends = [_class_patches(semantics)]
        if semantics.truth is not None:
            legends.append(_patches(ERROR_COLORS))
    if boundary is not None:
        student, teacher = _boundary_panels(boundary)
    if relations is not None:
        for pair in _relation_panels(image, relations):
            student.append(pair[0])
            teacher.append(pair[1])
    sheet = _Sheet(_arrange(first, student, teacher), coverage, legends)
    return sheet.draw(title)


@dataclass
class _Panel:
    """A titled picture, or a heat map, or the one over the other."""

    title: str
    picture: ndarray | None = None
    heat: ndarray | None = None
    heat_max: float = 1.0
    # Number beside each: (y, x) as fractions of the image's height and width.
    marks: dict[int, tuple[float, float]] = field(default_factory=dict)


def _semantic_panels(image: ndarray, semantics: Semantics) -> list[_Panel]:
    """The truth, the prediction and its errors."""
    palette = np.array(semantics.palette, np.uint8)
    prediction = _Panel('prediction', palette[semantics.prediction])
    if semantics.truth is None:
        return [prediction]
    errors = draw_errors(
        image,
        semantics.prediction,
        semantics.truth,
        len(semantics.classes),
        tolerance=semantics.tolerance,
        min_area=semantics.min_area,
        ignore_index=semantics.ignore_index,
    )
    ignored = semantics.truth == semantics.ignore_index
    truth = palette[np.where(ignored, 0, semantics.truth)]
    truth[ignored] = _stripes(ignored.shape)[ignored]
    return [
        _Panel('truth', truth),
        prediction,
        _Panel(
            'errors of the prediction\n(boundaries off by more than '
            f'{semantics.tolerance:g} px)',
            errors,
        ),
    ]


def _boundary_panels(
    boundary: Boundary,
) -> tuple[list[_Panel | None], list[_Panel | None]]:
    """What is above, the student's, and below, the teacher's."""
    on_mask = boundary.source == 'mask'
    whose = 'class probabilities' if on_mask else f'{boundary.source} affinity'
    above = (
        _edges_panel('student', whose, boundary.student)
        if on_mask
        else _Panel(
            'student: boundary map B\n(1: sure of a boundary)',
            heat=boundary.student,
        )
    )
    who = 'truth' if boundary.source == 'label' else 'teacher'
    below = _edges_panel(who, whose, boundary.teacher)
    if boundary.truth is None:
        return [above], [below]
    truth = _edges_panel('truth', 'labels', boundary.truth)
    return [above, truth], [below, None]


def _edges_panel(who: str, whose: str, heat: ndarray) -> _Panel:
    return _Panel(
        f'{who}: edges of its {whose}\n(1: unlike a neighbor)', heat=heat
    )


def _stripes(size: tuple[int, int]) -> ndarray:
    """Black and white, as no class's color can be."""
    width = max(1, round(max(size) / 80))
    stripes = np.indices(size).sum(axis=0) // width % 2
    return np.uint8(255 * stripes)[..., None]


def _relation_panels(
    image: ndarray, relations: Relations
) -> list[list[_Panel]]:
    """For each pixel, the panel of the student and that of the teacher."""
    background = dim(image)
    pairs = []
    for number, (point, *rows) in enumerate(
        zip(relations.points, relations.student, relations.teacher), 1
    ):
        # 1 is the mean. The pixel's relation to itself outshines all others.
        rows = [row * row.size for row in rows]
        heat_max = np.percentile(rows, 99.5)
        pairs.append(
            [
                _Panel(
                    f'{who}: relation of pixel {number} to all pixels\n'
                    '(as a multiple of their average)',
                    background,
                    row,
                    heat_max,
                    marks={number: point},
                )
                for who, row in zip(('student', 'teacher'), rows)
            ]
        )
    return pairs


def _arrange(
    first: list[_Panel],
    student: list[_Panel | None],
    teacher: list[_Panel | None],
) -> list[list[_Panel | None]]:
    """The student's panels above the teacher's, and no row of one panel, but
    for an image that would make a long row longer."""
    rows = [row for row in (student, teacher) if row]
    of_teacher = [panel for panel in teacher if panel is not None]
    if len(of_teacher) == 1:
        rows = [student + of_teacher]
    if len(first) > 1 or not rows or len(rows[0]) > 4:
        return [first, *rows]
    return [first + rows[0], *([None, *row] for row in rows[1:])]


def _class_patches(semantics: Semantics) -> list[Patch]:
    """Legend of the classes that truth or prediction hold."""
    maps = semantics.truth, semantics.prediction
    present = np.unique([labels for labels in maps if labels is not None])
    patches = _patches(
        {
            semantics.classes[i]: semantics.palette[i]
            for i in present
            if i != semantics.ignore_index
        }
    )
    if semantics.ignore_index in present:
        patches.append(
            Patch(facecolor='w', edgecolor='k', hatch='////', label='ignored')
        )
    return patches


def _patches(colors: Mapping[str, Sequence[int]]) -> list[Patch]:
    return [
        Patch(facecolor=np.array(rgb) / 255, edgecolor='0.5', label=name)
        for name, rgb in colors.items()
    ]


class _Sheet:
    """A figure of panels in rows, laid out in pixels from its top left.

    Args:
        rows (list[list[_Panel | None]]): The panels; None leaves a gap. The
            first has a picture.
        coverage (tuple[float, float]): See :func:`draw_distillation`.
        legends (list[list[Patch]]): That of the classes, to be put below the
            first row, and that of the errors, below its last panel, or the
            first of them, or neither.
    """

    def __init__(
        self,
        rows: list[list[_Panel | None]],
        coverage: tuple[float, float],
        legends: list[list[Patch]],
    ) -> None:
        self.rows = rows
        height, width = self.size = rows[0][0].picture.shape[:2]
        self.map_size = height * coverage[0], width * coverage[1]
        self.panel_height, self.panel_width = (
            round(n * _PANEL / max(self.size)) for n in self.size
        )
        self.cell_width = max(self.panel_width + _BAR, _TITLE)
        self.cell_height = 2 * _LINE + self.panel_height + 2 * _MARGIN

        last = (len(rows[0]) - 1) * self.cell_width
        self.legends = []
        self.legend_height = 0
        for patches, left, room in zip(
            legends, (0, last), (last, self.cell_width)
        ):
            longest = max(len(patch.get_label()) for patch in patches)
            columns = max(1, int(room / (longest * _CHARACTER + _KEY)))
            lines = math.ceil(len(patches) / columns)
            self.legends.append((patches, _MARGIN + left, columns))
            self.legend_height = max(
                self.legend_height, lines * _LINE + 2 * _MARGIN
            )

        self.width = max(map(len, rows)) * self.cell_width + _MARGIN
        self.height = (
            2 * _LINE
            + len(rows) * self.cell_height
            + self.legend_height
            + _MARGIN
        )
        self.figure = Figure((self.width / _DPI, self.height / _DPI), dpi=_DPI)
        self.canvas = FigureCanvasAgg(self.figure)

    def draw(self, title: str) -> ndarray:
        """Draw everything; return RGB, uint8."""
        y = _MARGIN
        self.figure.text(
            *self._share(_MARGIN, y), title, va='top', weight='bold'
        )
        y += 2 * _LINE
        for row in self.rows:
            y += self.cell_height
            bottom = y - 2 * _MARGIN
            for column, panel in enumerate(row):
                if panel is not None:
                    self._draw_panel(
                        _MARGIN + column * self.cell_width, bottom, panel
                    )
            if row is self.rows[0]:
                self._draw_legends(bottom + _MARGIN)
                y += self.legend_height
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def _share(self, x: float, y: float) -> tuple[float, float]:
        """A place as Matplotlib wants it: in shares, from the bottom."""
        return x / self.width, 1 - y / self.height

    def _draw_legends(self, top: int) -> None:
        for patches, left, columns in self.legends:
            self.figure.legend(
                handles=patches,
                ncols=columns,
                loc='upper left',
                bbox_to_anchor=self._share(left, top),
                borderaxespad=0,
                borderpad=0,
                frameon=False,
                fontsize=_FONT_SIZE,
            )

    def _draw_panel(self, left: int, bottom: int, panel: _Panel) -> None:
        axes = self.figure.add_axes(
            (
                *self._share(left, bottom),
                self.panel_width / self.width,
                self.panel_height / self.height,
            )
        )
        height, width = self.size
        if panel.picture is not None:
            axes.imshow(
                panel.picture, extent=(0, width, height, 0), aspect='auto'
            )
        if panel.heat is not None:
            self._draw_heat(axes, panel)
        for number, (y, x) in panel.marks.items():
            axes.text(
                x * width,
                y * height,
                str(number),
                ha='center',
                va='center_baseline',
                color='white',
                weight='bold',
                size=_FONT_SIZE - 1,
                bbox=dict(
                    boxstyle='circle,pad=0.2',
                    facecolor='black',
                    edgecolor='white',
                ),
            )
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axes.set_title(panel.title, loc='left', fontsize=_FONT_SIZE)

    def _draw_heat(self, axes: Axes, panel: _Panel) -> None:
        height, width = self.map_size
        opacity = 1.0
        if panel.picture is not None:
            # What is cold lets the picture be seen.
            opacity = 0.3 + 0.5 * np.minimum(panel.heat / panel.heat_max, 1)
        heat = axes.imshow(
            panel.heat,
            extent=(0, width, height, 0),
            aspect='auto',
            cmap=_HEAT,
            vmin=0,
            vmax=panel.heat_max,
            alpha=opacity,
        )
        bar = self.figure.colorbar(
            ScalarMappable(heat.norm, heat.cmap),
            cax=axes.inset_axes((1.02, 0, 0.04, 1)),
            extend='max' if panel.heat.max() > panel.heat_max else 'neither',
            ticks=MaxNLocator(4, steps=(1, 2, 5, 10)),
            format='%g',
        )
        bar.ax.tick_params(labelsize=_FONT_SIZE - 1)
