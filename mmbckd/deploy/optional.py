"""Packages that only deployment needs."""

from importlib import import_module
from types import ModuleType


def require(*names: str) -> tuple[ModuleType, ...]:
    """Import packages of ``mmbckd[deploy]``.

    Args:
        names (str): The modules to import.

    Returns:
        tuple[ModuleType]: The modules.

    Raises:
        ImportError: If one cannot be imported; it says what to install.
    """
    try:
        return tuple(import_module(name) for name in names)
    except ImportError as error:
        raise ImportError(
            f'Expected the packages of deployment, but {error}: '
            "pip install 'mmbckd[deploy]', or "
            'pip install onnx onnxscript onnxruntime openvino'
        ) from None
