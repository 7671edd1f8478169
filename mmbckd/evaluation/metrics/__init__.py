from .boundary_iou_metric import BoundaryIoUMetric
from .coco_boundary_metric import CocoBoundaryMetric
from .connectivity_metric import ConnectivityMetric

__all__ = ['BoundaryIoUMetric', 'CocoBoundaryMetric', 'ConnectivityMetric']
