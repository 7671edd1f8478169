from . import checkpoints  # noqa: F401  (registers)
from . import pypi_checkpoints  # noqa: F401  (registers)
from .hooks import *  # noqa: F401,F403
from .optimizers import *  # noqa: F401,F403
