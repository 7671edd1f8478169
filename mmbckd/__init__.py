"""Boundary and context knowledge distillation (BCKD) on MMRazor.

Importing this package registers its losses, connectors, distillers,
algorithms, data sets, metrics and hooks, so that a config needs only
``custom_imports = dict(imports=['mmbckd'])``. The mathematics alone, without
any registry, is in :mod:`mmbckd.functional`.
"""
import mmbckd_compat

from .version import __version__

# MMRazor can only be imported on PyTorch 2 with this in place. It usually is,
# since Python starts with it; not so in a clone that was never installed.
mmbckd_compat.install()


def _problem() -> str | None:
    """What is missing or unsupported, in one sentence, or None."""
    import importlib.metadata

    from packaging.specifiers import SpecifierSet

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
        have = ', '.join(f'{found or "nothing"} for {needed}'
                         for needed, found in wrong)
        install = ' '.join(f'"{needed}"' for needed, _ in wrong)
        return (f'mmbckd {__version__} needs other versions (found {have}): '
                f'run `make setup` in its source tree, or '
                f'`pip install {install}`.')
    try:
        import mmrazor.models  # noqa: F401
    except ImportError as error:
        if (switch := mmbckd_compat.why_not()) is not None:
            return ('mmrazor cannot be imported on PyTorch 2 without '
                    f"mmbckd's compat layer, but {switch}")
        return (f'mmrazor cannot be imported ({error}): run `make setup` in '
                "mmbckd's source tree, or install the versions that "
                'requirements/constraints.txt there lists.')
    return None


def _asked_for_report() -> bool:
    """Whether this is ``python -m mmbckd``, which explains any problem."""
    import sys
    command = sys.orig_argv
    return sys.argv[:1] == ['-m'] and any(
        pair == ('-m', __name__) for pair in zip(command, command[1:]))


problem = _problem()
if problem is None:
    from . import datasets, engine, evaluation, models
elif not _asked_for_report():
    raise ImportError(problem)

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
