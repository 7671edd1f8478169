"""Fake quantization, for training a model that a chip computes in integers."""

from .fake_quantization import (
    FakeQuantization,
    build_quantization,
    fold_norm,
)

__all__ = ['FakeQuantization', 'build_quantization', 'fold_norm']
