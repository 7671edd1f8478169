"""The page that compares runs."""

from __future__ import annotations

import base64
import io
import os.path as osp
import pprint
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from mmengine.device import get_device
from mmengine.utils import mkdir_or_exist
from numpy import ndarray
from PIL import Image

from ...version import __version__
from ...visualization import ERROR_COLORS
from ..formatting import describe_metric, lower_is_better
from ..runs import check_same_data, read_run, run_titles
from . import curves, images
from .comparison import ABSENT, config_table, metric_table

# Greatest side of an image on the page, in pixels.
_SIDE = 640
# Longest value of a config that is not folded, in characters.
_FOLD = 70


def write_report(
    runs: Sequence[str],
    out: str = 'report.html',
    *,
    names: Sequence[str] | None = None,
    baseline: str | None = None,
    num_images: int = 8,
    max_images: int = 200,
    device: str | None = None,
    draw_images: bool = True,
) -> str:
    """Write a page that compares training runs.

    It has their final metrics, the curves of losses and metrics, the
    validation images on which they differ most, and what their configs differ
    in. It is one file that needs no network and no JavaScript.

    Args:
        runs (Sequence[str]): Work directories of ``mim train``; or configs
            ``NAME.py`` with the checkpoint ``NAME.pth`` or the log
            ``NAME.json`` beside them.
        out (str): The file to write. Defaults to 'report.html'.
        names (Sequence[str], optional): A title for each run. Defaults to
            None: shortened names of the work directories.
        baseline (str, optional): The title of the run that the others are
            compared with. Defaults to None: the first.
        num_images (int): How many validation images to show, those on which
            runs differ most. Defaults to 8.
        max_images (int): How many validation images, evenly spaced, to look
            at. Defaults to 200.
        device (str, optional): Where the models are run. Defaults to None:
            a GPU if there is one.
        draw_images (bool): Whether to run the models and show images at all.
            Defaults to True.

    Returns:
        str: The file written.

    Raises:
        FileNotFoundError: If a run, its log, its config or the validation
            data are not there.
        ValueError: If an option is wrong, a file cannot be read, a checkpoint
            does not fit its config, or the runs were not validated on the
            same data.

    Example::

        write_report(
            ['work_dirs/student', 'work_dirs/distilled'],
            names=['alone', 'distilled'],
        )
    """
    names = run_titles(runs, names)
    base = _check_baseline(names, baseline)
    for option, value in (
        ('num_images', num_images),
        ('max_images', max_images),
    ):
        if value < 1:
            raise ValueError(
                f'{option} must be at least 1, but got {value}; '
                'images are left out by --no-images '
                '(draw_images=False)'
            )
    if osp.isdir(out):
        raise ValueError(
            f'Expected a file to write, but out={out} is a folder. Name the '
            'page too, such as report.html.'
        )
    mkdir_or_exist(osp.dirname(osp.abspath(out)))
    entries = [read_run(str(path), name) for path, name in zip(runs, names)]
    classes = check_same_data(entries)
    logs = [run.log for run in entries]
    compared = None
    if draw_images:
        try:
            compared = images.compare_images(
                entries, base, num_images, max_images, device or get_device()
            )
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(
                f'{error} Or leave the images out by --no-images '
                '(draw_images=False).'
            ) from None
    page = (
        _environment()
        .get_template('report.html')
        .render(
            version=__version__,
            runs=entries,
            base=base,
            styles=[curves.style(i) for i in range(len(entries))],
            metrics=metric_table([log.metrics for log in logs], base),
            losses=curves.loss_curves(logs),
            metric_curves=curves.metric_curves(logs),
            configs=_grouped(config_table(entries)),
            classes=classes,
            error_colors=ERROR_COLORS,
            tolerance=images.TOLERANCE,
            draw_images=draw_images,
            images=compared,
        )
    )
    with open(out, 'w', encoding='utf-8') as stream:
        stream.write(page)
    return out


def _check_baseline(names: list[str], baseline: str | None) -> int:
    if baseline is None:
        return 0
    if baseline not in names:
        raise ValueError(
            'Expected the name of a run as the baseline, but got '
            f'{baseline!r}. The runs are {names}.'
        )
    return names.index(baseline)


def _grouped(table: dict[str, list[Any]]) -> dict[str, dict[str, list[Any]]]:
    """The rows of the configs' table by the first part of their keys."""
    groups: dict[str, dict] = {}
    for key, values in table.items():
        groups.setdefault(key.partition('.')[0], {})[key] = values
    return groups


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader('mmbckd.analysis.report', ''),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        svg=_svg,
        jpeg=_jpeg,
        value=_value,
        breakable=_breakable,
        hex=lambda rgb: '#' + bytes(rgb).hex(),
    )
    environment.tests['absent'] = lambda value: value is ABSENT
    environment.globals.update(
        draw_curves=curves.draw_curves,
        lower_is_better=lower_is_better,
        describe=describe_metric,
        fold=_FOLD,
    )
    return environment


def _breakable(name: str) -> Markup:
    """A long name that may be broken into lines at its joints."""
    return Markup(re.sub(r'([_./])', r'\1<wbr>', str(escape(name))))


def _svg(text: str) -> str:
    """A picture in SVG as the address of an <img>."""
    return _data_uri('svg+xml', text.encode())


def _jpeg(image: ndarray) -> str:
    """An RGB image, not too large, as the address of an <img>."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    # Without subsampling, which would blur thin colored lines.
    picture.save(stream, 'JPEG', quality=80, subsampling=0, optimize=True)
    return _data_uri('jpeg', stream.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def _value(value: Any) -> str:
    """A value of a config, in as many lines as it needs."""
    return pprint.pformat(value, width=60, sort_dicts=False)
