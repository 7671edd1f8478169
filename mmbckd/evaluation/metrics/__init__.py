from .boundary_iou_metric import BoundaryIoUMetric
from .connectivity_metric import ConnectivityMetric

__all__ = ['BoundaryIoUMetric', 'ConnectivityMetric']
