from .context_connector import ContextConnector
from .hierarchical_boundary_connector import HierarchicalBoundaryConnector

__all__ = ['ContextConnector', 'HierarchicalBoundaryConnector']
