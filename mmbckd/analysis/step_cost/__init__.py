"""What a training costs: FLOPs, memory, and an estimate of its hours."""

from .config import cost_key, training_size
from .cost import read_costs, step_cost

__all__ = ['cost_key', 'read_costs', 'step_cost', 'training_size']
