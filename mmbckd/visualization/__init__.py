"""Pictures of what distillation is to improve: plain arrays, no registry."""

from .drawing import ERROR_COLORS, draw_errors
from .figure import Boundary, Relations, Semantics, draw_distillation

__all__ = [
    'ERROR_COLORS',
    'Boundary',
    'Relations',
    'Semantics',
    'draw_distillation',
    'draw_errors',
]
