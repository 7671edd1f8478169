from .seg_datasets import CamVidDataset, StreetScenesDataset

__all__ = ['CamVidDataset', 'StreetScenesDataset']
