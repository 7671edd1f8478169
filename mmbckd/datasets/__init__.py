from .det_datasets import CamVidInstanceDataset
from .seg_datasets import CamVidDataset, StreetScenesDataset

__all__ = ['CamVidDataset', 'CamVidInstanceDataset', 'StreetScenesDataset']
