"""A deterministic generator of street-like scenes, for the quickstart.

Every scene is a small perspective drawing: a bending road with sidewalks,
facades, trees, cars, people, and the thin things that make boundaries hard
(poles, wires, railings, signs, lane markings). Its classes are those of
:class:`mmbckd.datasets.StreetScenesDataset`.

``import mmbckd`` does not import this package; only drawing needs it.
"""

from .scene import generate_scene, scene_rng
from .writing import write_dataset

__all__ = ['generate_scene', 'scene_rng', 'write_dataset']
