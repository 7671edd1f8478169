from . import (
    checkpoints,  # noqa: F401  (registers)
    pypi_checkpoints,  # noqa: F401  (registers)
)
from .hooks import *  # noqa: F403
from .optimizers import *  # noqa: F403
