from .. import problem

# Without OpenMMLab there is only the mathematics, in `.functional`.
if problem is None:
    from .metrics import *  # noqa: F403
