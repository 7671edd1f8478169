"""Write the pages of the site that follow from other files.

``model_zoo.md`` from the metafiles, ``api.rst`` and ``api/`` from the
packages' ``__all__``.
``conf.py`` calls it whenever the site is built.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import yaml

import mmbckd

ROOT = Path(__file__).resolve().parents[2]

ZOO = """\
# Model zoo

{configs} configs of {folders} folders, from their metafiles; `mim search
mmbckd` lists them too. Metrics are those of runs whose logs lie under
`results/`, as mean over seeds. An empty cell has not been run, or only with
options or on its own training images: the schedules of the public data sets
take GPUs, which were not at hand.

At every change each of them is built, trained for a step and evaluated, on
small pictures in the layout of its data. What its losses compare (module,
shape and stride of each map), that both terms are finite, positive and reach
the student's first layer, and the name of its teacher's checkpoint are tested
as well (`tests/test_configs.py`, `tests/test_configs_mmdet.py`).

Checkpoints are shipped beside the quickstart's teacher, the EfficientNet-Lite2
teachers on CamVid, and some of their students.
"""

API = """\
API reference
=============

Made from the docstrings. :mod:`mmbckd.functional` needs PyTorch only; what is
registered is used in a config by its name.

.. toctree::
   :maxdepth: 2

"""


def write(folder: Path) -> None:
    """Write all generated pages.

    Args:
        folder (Path): The folder of the site's sources.
    """
    pages = {
        'model_zoo.md': model_zoo(),
        **api(),
    }
    for path in (folder / 'api').glob('*.rst'):  # of packages that were moved
        if f'api/{path.name}' not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        # An unchanged page is not read again by Sphinx.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def model_zoo() -> str:
    """The configs of all metafiles, with what has been measured."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    sections = []
    configs = 0
    for name in index['Import']:
        models = yaml.safe_load((ROOT / name).read_text()).get('Models')
        if not models:
            continue
        configs += len(models)
        keys = list(
            dict.fromkeys(
                key
                for model in models
                for result in model.get('Results', [])
                for key in result['Metrics']
            )
        )
        header = ['config', 'data', *keys]
        rows = [
            [
                f'`{model["Name"]}`',
                model['Metadata']['Training Data'],
                *(metric(model, key) for key in keys),
            ]
            for model in models
        ]
        title = Path(name).parent.relative_to('configs')
        sections += [f'## {title}', '', *table(header, rows), '']
    head = ZOO.format(
        configs=configs, folders=sum(s.startswith('## ') for s in sections)
    )
    return '\n'.join([head, *sections])


def metric(model: dict, key: str) -> str:
    """A metric of a config, or nothing."""
    values = [
        result['Metrics'][key]
        for result in model.get('Results', [])
        if key in result['Metrics']
    ]
    return str(values[0]) if values else ''


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, numbers to the right."""
    align = ['---', '---', *['---:'] * (len(header) - 2)]
    return [f'| {" | ".join(cells)} |' for cells in (header, align, *rows)]


def api() -> dict[str, str]:
    """A page for each part of the package, and the page that lists them."""
    parts: dict[str, list[str]] = {}
    for package in packages():
        parts.setdefault('.'.join(package.split('.')[:2]), []).append(package)
    pages = {}
    for part, names in parts.items():
        lines = heading(part, '=')
        for name in names:
            if name != part:
                lines += heading(name, '-')
            lines += [f'.. automodule:: {name}', '   :members:', '']
        pages[f'api/{part}.rst'] = '\n'.join(lines)
    listing = API + ''.join(f'   api/{part}\n' for part in parts)
    return {'api.rst': listing, **pages}


def packages() -> Iterator[str]:
    """The packages that export classes or functions of their own."""
    for found in pkgutil.walk_packages(mmbckd.__path__, 'mmbckd.'):
        if found.ispkg:
            package = importlib.import_module(found.name)
            if any(
                inspect.isroutine(thing) or inspect.isclass(thing)
                for thing in (
                    getattr(package, name)
                    for name in getattr(package, '__all__', ())
                )
            ):
                yield found.name


def heading(text: str, line: str) -> list[str]:
    """A heading in reStructuredText."""
    return [text, line * len(text), '']
