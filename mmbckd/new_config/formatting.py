"""Configs as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

_WIDTH = 79


class Code(str):
    """What stands in a config as it is, such as ``{{_base_.model}}``."""


def assignment(
    name: str, value: Any, comments: Mapping[str, str] | None = None
) -> str:
    """A statement of a config, in the style of Ruff and Black.

    Args:
        name (str): What is assigned.
        value (Any): Dicts, lists, numbers, strings and :class:`Code`.
        comments (Mapping[str, str], optional): What to say above a key, by
            its dotted name. Defaults to None.

    Returns:
        str: Its lines.
    """
    return _item(f'{name} = ', value, comments or {}, '', '')


def comment(text: str, indent: str = '') -> str:
    """The lines of a comment."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f'{indent}# ',
        subsequent_indent=f'{indent}# ',
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(
    start: str,
    value: Any,
    comments: Mapping[str, str],
    name: str,
    indent: str,
    end: str = '',
) -> str:
    """One entry: in one line where it fits and nothing in it is commented."""
    line = f'{indent}{start}{_inline(value)}{end}'
    inner = any(key.startswith(f'{name}.' if name else '') for key in comments)
    is_long = len(line) > _WIDTH or inner
    if not is_long or not isinstance(value, (dict, list)) or not value:
        return line
    deeper = indent + ' ' * 4
    lines = []
    if isinstance(value, dict):
        opening, closing = 'dict(', ')'
        for key, child in value.items():
            child_name = f'{name}.{key}' if name else key
            if child_name in comments:
                lines.append(comment(comments[child_name], deeper))
            lines.append(
                _item(f'{key}=', child, comments, child_name, deeper, ',')
            )
    else:
        opening, closing = '[', ']'
        lines += [_item('', child, {}, name, deeper, ',') for child in value]
    return '\n'.join(
        [f'{indent}{start}{opening}', *lines, f'{indent}{closing}{end}']
    )


def _inline(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, dict):
        items = (f'{key}={_inline(child)}' for key, child in value.items())
        return f'dict({", ".join(items)})'
    if isinstance(value, list):
        return f'[{", ".join(map(_inline, value))}]'
    return repr(value)
