from .onnx_segmentor import ONNXSegmentor

__all__ = ['ONNXSegmentor']
