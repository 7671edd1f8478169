from .recorders import *  # noqa: F403
