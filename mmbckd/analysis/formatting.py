"""How metrics are called and which way is better; tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

_MEANINGS = {
    'mIoU': 'intersection over union, mean over the classes',
    'mAcc': 'share of right pixels of a class, mean over the classes',
    'aAcc': 'share of right pixels',
    'mBIoU': 'IoU of the strips along the classes’ boundaries',
    'trimap_mIoU_px': 'IoU of the pixels within {} px of a true boundary',
    'bF1_px': 'F-score of the boundaries, {} px off count as right',
    'bF1': 'F-score of the boundaries, mean over the tolerances',
    'b0_err': 'regions too many or too few',
    'b1_err': 'holes too many or too few',
    'whole_regions': 'share of true regions found in one piece',
    'stray_fragments': 'share of predicted regions where nothing is',
}


def lower_is_better(metric: str) -> bool:
    """Whether the smaller of two values of a metric is the better one.

    Args:
        metric (str): The metric's key, with or without a prefix.

    Example:
        >>> [lower_is_better(m) for m in ('val/b0_err', 'mIoU')]
        [True, False]
    """
    return re.search(r'(_err|loss\w*|stray_fragments)$', metric) is not None


def heading(metric: str) -> str:
    """The heading of a metric's column: its bare key, and what is better.

    Args:
        metric (str): The metric's key, with or without a prefix.

    Example:
        >>> heading('coco/bbox_mAP'), heading('b0_err')
        ('bbox_mAP ↑', 'b0_err ↓')
    """
    arrow = '↓' if lower_is_better(metric) else '↑'
    return f'{metric.rpartition("/")[2]} {arrow}'


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence]
) -> list[str]:
    """The lines of a Markdown table whose first column is text.

    Args:
        heads (Sequence[str]): Headings of the columns.
        rows (Iterable[Sequence]): Cells of the rows.

    Returns:
        list[str]: The lines.
    """
    frame = pd.DataFrame(list(rows), columns=list(heads))
    align = ['left', *['right'] * (len(heads) - 1)]
    text = frame.to_markdown(
        index=False, disable_numparse=True, colalign=align
    )
    return text.splitlines()


def describe_metric(metric: str) -> str:
    """A metric of mmbckd or mmseg in a few words; of others, nothing."""
    name, _, width = re.fullmatch(
        r'(.*?)(_([\d.]+)px)?', metric.rpartition('/')[2]
    ).groups()
    return _MEANINGS.get(name if width is None else f'{name}_px', '').format(
        width
    )
