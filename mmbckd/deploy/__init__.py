"""Students as ONNX files, in floating point and in INT8.

Needs ``pip install 'mmbckd[deploy]'``; nothing here is imported before it is
called.
"""

from .comparison import Comparison, compare_onnx
from .export import export_onnx
from .interface import Interface
from .qdq import export_qdq
from .quantization import layer_errors, quantize_int8

__all__ = [
    'Comparison',
    'Interface',
    'compare_onnx',
    'export_onnx',
    'export_qdq',
    'layer_errors',
    'quantize_int8',
]
