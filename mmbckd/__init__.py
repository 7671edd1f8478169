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

from .stack import stack_problem
from .version import __version__

# MMRazor can only be imported on PyTorch 2 with this in place. It usually is,
# since Python starts with it; not so in a clone that was never installed.
mmbckd_compat.install()

_MATHEMATICS = ('functional', 'evaluation.functional')


def _problem() -> str | None:
    """What is missing or unsupported, in one sentence, or None."""
    if (wrong := stack_problem()) is not None:
        return wrong
    try:
        import mmrazor.models  # noqa: F401
    except (ImportError, AssertionError) as error:
        if (switch := mmbckd_compat.why_not()) is not None:
            return (
                'mmrazor cannot be imported on PyTorch 2 without '
                f"mmbckd's compat layer, but {switch}"
            )
        return (
            f'mmrazor cannot be imported ({error}): run `make setup` in '
            "mmbckd's source tree, or install the versions that "
            'requirements/constraints*.txt there list.'
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
