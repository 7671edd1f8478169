"""What runs an ONNX file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray

from .optional import require

INPUT = 'image'


def open_onnx(
    file: str | Path | bytes, backend: str = 'onnxruntime'
) -> Callable[[ndarray], list[ndarray]]:
    """Open an ONNX file that :func:`export_onnx` has written, on the CPU.

    It runs with as many threads as PyTorch, and what the file has in float32
    is computed in float32, where OpenVINO alone would take bfloat16 on a CPU
    that has it.

    Args:
        file (str | Path | bytes): The file, or what is in it.
        backend (str): One of :data:`BACKENDS`. Defaults to 'onnxruntime'.

    Returns:
        Callable: Takes what the file takes, (N, 3, H, W), and gives all
        that it gives.

    Raises:
        ImportError: If the backend is not installed.
        ValueError: If it is unknown, or the file is no ONNX file.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f'Expected `backend` to be one of {tuple(BACKENDS)}, but got '
            f'{backend!r}.'
        )
    return BACKENDS[backend](file)


def open_session(file: str | Path | bytes, exact_sums: bool = False) -> Any:
    """Open an ONNX file in ONNX Runtime, see :func:`open_onnx`.

    Args:
        file (str | Path | bytes): The file, or what is in it.
        exact_sums (bool): Whether products of 8 bits are summed up in float.
            Otherwise x86 CPUs without VNNI add pairs of them in 16 bits,
            which can overflow. Defaults to False.

    Returns:
        onnxruntime.InferenceSession: The session.

    Raises:
        ImportError: If ONNX Runtime is not installed.
        ValueError: If it is no ONNX file.
    """
    (onnxruntime,) = require('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if exact_sums:
        options.add_session_config_entry('session.disable_quant_qdq', '1')
    try:
        return onnxruntime.InferenceSession(
            file if isinstance(file, bytes) else str(file),
            options,
            providers=['CPUExecutionProvider'],
        )
    # ONNX Runtime's exceptions have no common base class of their own.
    except Exception as error:
        raise _unreadable(file, 'ONNX Runtime', error) from None


def _onnxruntime(
    file: str | Path | bytes,
) -> Callable[[ndarray], list[ndarray]]:
    session = open_session(file)
    return lambda image: session.run(None, {INPUT: image})


def _openvino(file: str | Path | bytes) -> Callable[[ndarray], list[ndarray]]:
    (openvino,) = require('openvino')
    core = openvino.Core()
    try:
        model = core.read_model(
            io.BytesIO(file) if isinstance(file, bytes) else str(file)
        )
        compiled = core.compile_model(
            model,
            'CPU',
            dict(
                INFERENCE_NUM_THREADS=torch.get_num_threads(),
                INFERENCE_PRECISION_HINT='f32',
            ),
        )
    except RuntimeError as error:
        raise _unreadable(file, 'OpenVINO', error) from None
    return lambda image: list(compiled({INPUT: image}).values())


def _unreadable(
    file: str | Path | bytes, backend: str, error: Exception
) -> ValueError:
    name = 'this' if isinstance(file, bytes) else file
    return ValueError(
        f'Expected an ONNX file, but {backend} cannot open {name} '
        f'({str(error).strip()}). Export it again.'
    )


BACKENDS = dict(onnxruntime=_onnxruntime, openvino=_openvino)
