"""The validation images on which runs differ most, with their errors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from mmengine.utils import track_progress
from numpy import ndarray

from ...evaluation.functional.boundary import (
    BoundaryCounts,
    boundary_counts,
    boundary_scores,
)
from ...visualization.drawing import dim, draw_errors
from ..predictions import Predictor, build_student
from ..runs import Run

#: Pixels up to which boundaries agree, in scores and drawings.
TOLERANCE = 2


class Scores(NamedTuple):
    """Scores of an image, from 0 to 1.

    Attributes:
        bf1 (float): F-score of the boundaries of all classes, or NaN if
            neither prediction nor truth has any.
        biou (float): Boundary IoU of all classes.
        accuracy (float): Share of pixels that are right.
    """

    bf1: float
    biou: float
    accuracy: float


class Pick(NamedTuple):
    """An image to be shown.

    Attributes:
        index (int): Which of the images.
        run (int): Which of the runs it is shown for.
        gain (float): By how much that run is better than the baseline; may
            be negative.
    """

    index: int
    run: int
    gain: float


class Summary(NamedTuple):
    """How a run compares with the baseline, image by image.

    Attributes:
        run (int): Which of the runs.
        better (int): Number of images that it is better on.
        worse (int): Number of images that it is worse on.
        mean (float): By how much it is better on average.
    """

    run: int
    better: int
    worse: int
    mean: float


class Picture(NamedTuple):
    """An image to look at; pictures are RGB, uint8, (H, W, 3).

    Attributes:
        name (str): The name of its file.
        picks (list[Pick]): Why it is shown.
        image (ndarray): The image.
        truth (ndarray): Its classes in their colors, over the image.
        errors (list[ndarray]): The errors of each run.
        scores (list[Scores]): The scores of each run.
    """

    name: str
    picks: list[Pick]
    image: ndarray
    truth: ndarray
    errors: list[ndarray]
    scores: list[Scores]


class Images(NamedTuple):
    """Runs compared on validation images.

    Attributes:
        runs (list[int]): The runs that there are predictions of.
        base (int): The run that the others are compared with.
        count (int): Number of images that were predicted.
        total (int): Number of images that there are.
        summaries (list[Summary]): One for each run but the baseline.
        pictures (list[Picture]): What to look at.
        colors (dict[str, tuple]): The color of each class.
    """

    runs: list[int]
    base: int
    count: int
    total: int
    summaries: list[Summary]
    pictures: list[Picture]
    colors: dict[str, tuple[int, int, int]]


def compare_images(
    runs: list[Run], base: int, num_images: int, max_images: int, device: str
) -> Images | None:
    """Compare the predictions of runs on their validation images.

    Each run gets them by its own validation pipeline, and all are compared in
    the size of the files. All are predicted and scored, nothing but scores is
    kept, and those to be shown are predicted once more.

    Args:
        runs (list[Run]): The runs. Those without a checkpoint, and those that
            are not for semantic segmentation, are left out.
        base (int): The run to compare with; the first that is not left out
            takes its place if need be.
        num_images (int): See :func:`pick_images`.
        max_images (int): Predict at most as many images, evenly spaced.
        device (str): Where to run the models.

    Returns:
        Images, optional: What came out, None if all runs are left out.

    Raises:
        FileNotFoundError: If the validation data of a run is not there.
        ValueError: If a checkpoint does not fit its config, a run has no
            validation data or other images than the first, or no run gives
            the truth.
    """
    models = {
        i: model
        for i, run in enumerate(runs)
        if run.checkpoint is not None
        and (model := build_student(run, device)) is not None
    }
    if not models:
        return None
    drawn = list(models)
    base = base if base in models else drawn[0]
    predictor = Predictor([runs[i] for i in drawn], list(models.values()))
    count = min(max_images, len(predictor))
    indices = np.linspace(0, len(predictor) - 1, count).astype(int).tolist()
    scores = track_progress(lambda i: _score_all(predictor, i), indices)
    bf1 = np.array([[each.bf1 for each in row] for row in scores])
    reasons: dict[int, list[Pick]] = {}
    for pick in pick_images(bf1, drawn.index(base), num_images):
        reasons.setdefault(pick.index, []).append(
            pick._replace(run=drawn[pick.run])
        )
    return Images(
        runs=drawn,
        base=base,
        count=count,
        total=len(predictor),
        summaries=[
            _summary(run, bf1[:, i] - bf1[:, drawn.index(base)])
            for i, run in enumerate(drawn)
            if run != base
        ],
        pictures=[
            _draw(predictor, indices[i], picks, scores[i])
            for i, picks in reasons.items()
        ],
        colors=dict(zip(predictor.classes, predictor.palette)),
    )


def score(
    prediction: ndarray, truth: ndarray, num_classes: int, ignore_index: int
) -> Scores:
    """Score an image.

    The boundary pixels of all classes are counted together: a mean over
    classes would hang on whether a few pixels of a rare class were predicted.

    Args:
        prediction (ndarray): Predicted class of every pixel, (H, W).
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes.
        ignore_index (int): Label of ignored pixels.

    Returns:
        Scores: The scores.
    """
    counts = boundary_counts(
        prediction,
        truth,
        num_classes,
        trimap_widths=(),
        tolerances=(TOLERANCE,),
        ignore_index=ignore_index,
    )
    counts = BoundaryCounts(*(c.sum(-1, keepdims=True) for c in counts))
    scores = boundary_scores(counts)
    valid = truth != ignore_index
    accuracy = (prediction == truth)[valid].mean() if valid.any() else np.nan
    return Scores(scores.f1.item(), scores.biou.item(), float(accuracy))


def pick_images(scores: ndarray, base: int, num_images: int) -> list[Pick]:
    """Pick the images on which runs differ most from one of them, both ways.

    The image on which a run gains most and that on which it loses most are
    picked for every other run, then those that come second, and so on, until
    there are enough different images.

    Args:
        scores (ndarray): A score of each image and run, NaN where there is
            none.
        base (int): The run to compare with.
        num_images (int): How many different images to pick; more, if the
            first of each run are more.

    Returns:
        list[Pick]: By run; of each first the gains, the greatest first, then
        the losses, the greatest first. Fewer images if runs differ on fewer.

    Shape:
        - scores: (N, M), of M runs
    """
    others = [run for run in range(scores.shape[1]) if run != base]
    kinds = [(run, sign) for run in others for sign in (1, -1)]
    gains = {run: scores[:, run] - scores[:, base] for run in others}
    # NaN comes last; of equals, the first image comes first.
    orders = {
        (run, sign): np.argsort(-sign * gains[run], kind='stable').tolist()
        for run, sign in kinds
    }
    picks: dict[tuple, list[Pick]] = {kind: [] for kind in kinds}
    picked: set[int] = set()
    for rank in range(len(scores)):
        for run, sign in kinds:
            if rank > 0 and len(picked) >= num_images:
                break
            i = orders[run, sign][rank]
            if sign * gains[run][i] > 0:
                picks[run, sign].append(Pick(i, run, float(gains[run][i])))
                picked.add(i)
    return [pick for kind in kinds for pick in picks[kind]]


def _score_all(predictor: Predictor, index: int) -> list[Scores]:
    maps = predictor.predict(index)
    return [
        score(
            prediction,
            maps.truth,
            len(predictor.classes),
            predictor.ignore_index,
        )
        for prediction in maps.predictions
    ]


def _summary(run: int, gains: ndarray) -> Summary:
    gains = gains[np.isfinite(gains)]
    return Summary(
        run,
        int((gains > 0).sum()),
        int((gains < 0).sum()),
        float(gains.mean()) if len(gains) else np.nan,
    )


def _draw(
    predictor: Predictor, index: int, picks: list[Pick], scores: list[Scores]
) -> Picture:
    file, truth, predictions = predictor.predict(index)
    image = mmcv.imread(file, channel_order='rgb')
    palette = np.asarray(predictor.palette, np.uint8)
    valid = truth != predictor.ignore_index
    colored = dim(image)
    colored[valid] = palette[truth[valid]]
    errors = [
        draw_errors(
            image,
            prediction,
            truth,
            len(predictor.classes),
            tolerance=TOLERANCE,
            ignore_index=predictor.ignore_index,
        )
        for prediction in predictions
    ]
    return Picture(Path(file).name, picks, image, colored, errors, scores)
