"""What stands in a table, read from a short YAML file."""

from __future__ import annotations

import argparse
import copy
from ast import literal_eval
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mmengine.config import Config

_TABLES = Path(__file__).resolve().parents[2] / '.mim' / 'tables'


class Row(NamedTuple):
    """A row of a table: one config, run with some seeds.

    Attributes:
        title (str): What the table calls it.
        config (str): A file, or ``'mmseg::pspnet/…'`` for one of upstream's.
        seeds (tuple[int]): Its seeds; a run for each.
        checkpoint (str, optional): Weights that are tested instead of
            training the config.
        options (tuple[tuple[str, Any]]): What is changed in the config, as
            by ``--cfg-options``.
        variant (str): What such a change adds to the name of its runs.
    """

    title: str
    config: str
    seeds: tuple[int, ...]
    checkpoint: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    variant: str = ''

    @property
    def name(self) -> str:
        """The bare name of its config, and what is changed in it."""
        return '_'.join(filter(None, [Path(self.config).stem, self.variant]))

    def __hash__(self) -> int:
        return hash((self.title, self.name))  # options may hold lists

    def run_name(self, seed: int) -> str:
        """The name of a run, and of its work directory and log."""
        return self.name if seed == 0 else f'{self.name}_seed-{seed}'


class Pair(NamedTuple):
    """A teacher, a student alone, and the ways to distill the one into the
    other.

    Attributes:
        title (str): What the table calls the pair.
        teacher (Row, optional): The teacher.
        student (Row): The student alone: gains are over it.
        distilled (list[Row]): The student, learning from the teacher.
    """

    title: str
    teacher: Row | None
    student: Row
    distilled: list[Row]

    @property
    def rows(self) -> list[Row]:
        """All rows, in the table's order."""
        teacher = [] if self.teacher is None else [self.teacher]
        return [*teacher, self.student, *self.distilled]


class Table(NamedTuple):
    """A table.

    Attributes:
        name (str): The bare name of its file.
        title (str): Its title.
        metrics (list[str]): Its columns, by their keys in the logs.
        input_size (tuple[int]): Height and width at which FLOPs and latency
            are measured.
        decimals (int): Decimals of a metric.
        rivals (list[str]): Titles of the rows that the others are compared
            with seed by seed, beside the student alone.
        time (bool): Whether it has columns of iterations, seconds per
            iteration and the time of the training.
        pairs (list[Pair]): Its rows.
    """

    name: str
    title: str
    metrics: list[str]
    input_size: tuple[int, int]
    decimals: int
    rivals: list[str]
    time: bool
    pairs: list[Pair]


def read_table(path: str | Path) -> Table:
    """Read the definition of a table.

    Args:
        path (str | Path): A YAML file as those in ``tables``, or the bare name
            of one of those. Configs are files, seen from it, or ``mmseg::…``
            of upstream.

    Returns:
        Table: The table.

    Raises:
        FileNotFoundError: If the file, or a config that it names, does not
            exist.
        ValueError: If the file is no such definition.
    """
    path = _find_table(Path(path))
    try:
        node = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise ValueError(
            f'Expected YAML, but {path} is none: {error}'
        ) from None
    reader = _Reader(path)
    reader.check(
        node,
        'the table',
        {'title': str, 'metrics': list, 'input_size': list, 'pairs': list},
        {'seeds': list, 'decimals': int, 'rival': (str, list), 'time': bool},
    )
    size = node['input_size']
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise reader.error('`input_size` as [height, width]', size)
    seeds = reader.seeds(node.get('seeds', [0]))
    pairs = [reader.pair(pair, seeds) for pair in node['pairs']]
    return Table(
        path.stem,
        node['title'],
        node['metrics'],
        tuple(size),
        node.get('decimals', 2),
        reader.rivals(node.get('rival', []), pairs),
        node.get('time', False),
        pairs,
    )


def _find_table(path: Path) -> Path:
    """The file of a definition: as it is named, or one of this package's."""
    if path.is_file():
        return path
    shipped = _TABLES / path.with_suffix('.yml').name
    if str(path.parent) in ('.', 'tables') and shipped.is_file():
        return shipped
    names = sorted(file.stem for file in _TABLES.glob('*.yml'))
    raise FileNotFoundError(
        f'Expected the definition of a table, but {path} does not exist. Name '
        f'a YAML file, or one of this package: {", ".join(names)}.'
    )


def table_parser(description: str | None) -> argparse.ArgumentParser:
    """A command's parser with a table and the folder of its runs.

    Args:
        description (str | None): What the command does.

    Returns:
        ArgumentParser: With ``table`` and ``--work-dir``.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('table', help='definition of the table')
    parser.add_argument(
        '--work-dir',
        default='work_dirs',
        help='folder of all work directories (default: work_dirs)',
    )
    return parser


def config_file(config: str) -> Path:
    """The file of a config.

    Args:
        config (str): A path, or ``'mmseg::pspnet/…'``.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    package, found, path = config.rpartition('::')
    file = Path(path)
    if found:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                f'Expected the config {config}, but {package} is not '
                'installed. Install it, or correct the name.'
            )
        file = Path(spec.origin).parent / '.mim' / 'configs' / path
    if not file.is_file():
        raise FileNotFoundError(
            f'Expected the config {config}, but there is '
            f'no file {file}. Correct the name.'
        )
    return file


@cache
def read_config(config: str) -> Config:
    """A config, to be looked at only."""
    return Config.fromfile(config_file(config))


def row_config(row: Row) -> Config:
    """The config of a row, with its options, to be looked at only."""
    return _config_with(row.config, repr(row.options))


@cache
def _config_with(config: str, options: str) -> Config:
    """A config with options, given as text: their lists have no hash."""
    found = read_config(config)
    if options := dict(literal_eval(options)):
        found = copy.deepcopy(found)
        found.merge_from_dict(options)
    return found


class _Reader:
    """Reads the parts of a definition; its errors name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, expected: str, got: Any) -> ValueError:
        return ValueError(
            f'Expected {expected}, but got {got!r}. Correct it in {self.path}.'
        )

    def check(
        self,
        node: Any,
        what: str,
        required: dict[str, Any],
        optional: dict[str, Any],
    ) -> None:
        """Check the keys of a part, and the types of what they hold."""
        if not isinstance(node, dict):
            raise self.error(f'{what} with the keys {list(required)}', node)
        types = {**required, **optional}
        for key in required:
            if key not in node:
                raise self.error(f'`{key}` in {what}', list(node))
        for key, value in node.items():
            if key not in types:
                raise self.error(f'the keys {list(types)} in {what}', key)
            if not isinstance(value, types[key]):
                kinds = types[key]
                kinds = kinds if isinstance(kinds, tuple) else (kinds,)
                names = ' or a '.join(kind.__name__ for kind in kinds)
                raise self.error(f'`{key}` of {what} to be a {names}', value)

    def seeds(self, seeds: Any) -> tuple[int, ...]:
        if (
            not isinstance(seeds, list)
            or not seeds
            or len(set(seeds)) < len(seeds)
            or not all(isinstance(s, int) and s >= 0 for s in seeds)
        ):
            raise self.error('`seeds` as a list of different numbers', seeds)
        return tuple(seeds)

    def rivals(self, titles: str | list, pairs: list[Pair]) -> list[str]:
        titles = [titles] if isinstance(titles, str) else titles
        for pair in pairs:
            known = [row.title for row in pair.distilled]
            for title in titles:
                if title not in known:
                    raise self.error(
                        f'`rival` as rows of {pair.title!r}, of {known}', title
                    )
        return titles

    def pair(self, node: Any, seeds: tuple[int, ...]) -> Pair:
        self.check(
            node,
            'a pair',
            dict(title=str, student=object),
            dict(teacher=object, rows=dict),
        )
        teacher = None
        if 'teacher' in node:  # one is enough, and all learn from it
            teacher = self.row('teacher', node['teacher'], seeds[:1])
        return Pair(
            node['title'],
            teacher,
            self.row('student', node['student'], seeds),
            [
                self.row(title, row, seeds)
                for title, row in node.get('rows', {}).items()
            ],
        )

    def row(self, title: str, node: Any, seeds: tuple[int, ...]) -> Row:
        node = dict(config=node) if isinstance(node, str) else node
        self.check(
            node,
            f'the row {title!r}',
            dict(config=str),
            dict(
                title=str,
                seeds=list,
                checkpoint=str,
                options=dict,
                variant=str,
            ),
        )
        if bool(node.get('options')) != bool(node.get('variant')):
            raise self.error(
                f'`options` of the row {title!r} and a `variant` that names '
                'them, or neither',
                node,
            )
        config = node['config']
        if '::' not in config:
            config = str((self.path.parent / config).resolve())
        config_file(config)
        checkpoint = node.get('checkpoint')
        if checkpoint is not None:  # one file is one run
            seeds = seeds[:1]
        return Row(
            node.get('title', title),
            config,
            self.seeds(node.get('seeds', list(seeds))),
            checkpoint,
            tuple(node.get('options', {}).items()),
            node.get('variant', ''),
        )
