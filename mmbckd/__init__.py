"""Boundary and context knowledge distillation (BCKD) on MMRazor.

Importing this package registers its losses, connectors, distillers,
algorithms, data sets, metrics and hooks, so that a config needs only
``custom_imports = dict(imports=['mmbckd'])``. Where OpenMMLab's packages are
missing or of other versions, that import raises an ImportError which says what
to install. The mathematics alone can be imported nevertheless: that of the
losses, :mod:`mmbckd.functional`, and that of the metrics,
:mod:`mmbckd.evaluation.functional`.
"""

import importlib
from typing import NoReturn

import mmbckd_compat

from .version import __version__

# MMRazor can only be imported on PyTorch 2 with this in place. It usually is,
# since Python starts with it; not so in a clone that was never installed.
mmbckd_compat.install()

_MATHEMATICS = ('functional', 'evaluation.functional')


def _problem() -> str | None:
    """What is missing or unsupported, in one sentence, or None."""
    import importlib.metadata

    try:
        from packaging.specifiers import SpecifierSet
    except ImportError as error:
        return (
            f'mmbckd {__version__} cannot tell which versions it finds '
            f'({error}): run `make setup` in its source tree, or '
            '`pip install packaging`.'
        )

    from .version import STACK

    wrong = []
    for name, versions in STACK.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = ''
        if not SpecifierSet(versions).contains(found or '0', prereleases=True):
            wrong.append((name + versions, found))
    if wrong:
        have = ', '.join(
            f'{found or "nothing"} for {needed}' for needed, found in wrong
        )
        install = ' '.join(f'"{needed}"' for needed, _ in wrong)
        return (
            f'mmbckd {__version__} needs other versions (found {have}): '
            f'run `make setup` in its source tree, or '
            f'`pip install {install}`.'
        )
    try:
        import mmrazor.models  # noqa: F401
    except ImportError as error:
        if (switch := mmbckd_compat.why_not()) is not None:
            return (
                'mmrazor cannot be imported on PyTorch 2 without '
                f"mmbckd's compat layer, but {switch}"
            )
        return (
            f'mmrazor cannot be imported ({error}): run `make setup` in '
            "mmbckd's source tree, or install the versions that "
            'requirements/constraints.txt there lists.'
        )
    return None


def _asked_for_report() -> bool:
    """Whether this is ``python -m mmbckd``, which explains any problem."""
    import sys

    command = sys.orig_argv
    return sys.argv[:1] == ['-m'] and any(
        pair == ('-m', __name__) for pair in zip(command, command[1:])
    )


def _asked_for_mathematics() -> bool:
    """Whether this is the import of a module that needs no OpenMMLab.

    Python imports a package before its submodule and does not tell it so. But
    it locks a module while it imports it, the submodule before the package.
    The table of these locks has no public name: in a Python without it the
    answer is no, and the import ends in the message about the problem.
    """
    locks = getattr(importlib._bootstrap, '_module_locks', {})
    return any(f'{__name__}.{name}' in locks for name in _MATHEMATICS)


def __getattr__(name: str) -> NoReturn:
    """What a problem has kept from being imported says so."""
    if problem is not None and name in __all__:
        raise ImportError(problem)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']

problem = _problem()
if problem is None:
    from . import datasets, engine, evaluation, models
elif not (_asked_for_report() or _asked_for_mathematics()):
    raise ImportError(problem)
