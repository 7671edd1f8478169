from typing import NoReturn

from .. import problem

# Without OpenMMLab there is only the mathematics, in `.functional`.
if problem is None:
    from .metrics import *  # noqa: F403


def __getattr__(name: str) -> NoReturn:
    """A metric that is missing says why."""
    if problem is not None and name.endswith('Metric'):
        raise ImportError(problem)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
