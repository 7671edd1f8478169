"""How checkpoint files are read and written.

Three of mmengine's entries are registered anew, so that a checkpoint is
whole or not there, one that cannot be read is named, and one whose host is
down can be taken from a folder.
"""

import os
import os.path as osp
import re
import zipfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse
from weakref import WeakSet

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, checkpoint
from mmengine.utils import mkdir_or_exist

FOLDER = 'MMBCKD_CHECKPOINTS'
ONNX_KEY = 'ONNXSegmentor.file'
# The models of this process whose checkpoint is an ONNX file. mmengine reads
# a checkpoint before it looks at the model, and would only log that an
# ordinary one does not know what it finds.
ONNX_MODELS: WeakSet = WeakSet()

_load_from_local = checkpoint.load_from_local
_load_from_http = checkpoint.load_from_http


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a checkpoint file.

    Args:
        filename (str): Path of the file.
        map_location (str | Callable | None): See :func:`torch.load`.

    Returns:
        dict: The checkpoint. That of ``NAME.onnx`` is for an
        ``ONNXSegmentor`` and has the file's bytes as only tensor.

    Raises:
        FileNotFoundError: If there is no such file.
        UnpicklingError: If it holds anything but tensors and plain types.
        ValueError: If it is cut off, or no checkpoint at all, or an ONNX
            file and no ``ONNXSegmentor`` was built.
    """
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'Expected a checkpoint, but {filename} does not exist (looked '
            f'up from {osp.abspath(".")}). Correct the path in `load_from`, '
            '`teacher_ckpt`, `init_cfg` or the file last_checkpoint.'
        )
    if path.endswith('.onnx'):
        if not ONNX_MODELS:
            raise ValueError(
                f'Expected the checkpoint of a PyTorch model, but {filename} '
                'is an ONNX file, which only an ONNXSegmentor can load. Take '
                'the config that export_student wrote beside it, '
                f'{osp.splitext(filename)[0]}.py.'
            )
        content = torch.from_numpy(np.fromfile(path, np.uint8))
        return {'state_dict': {ONNX_KEY: content}}
    try:
        return _load_from_local(path, map_location)
    except Exception as error:
        raise _unreadable(
            path, error, 'Copy or download it again, or name another file.'
        ) from None


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: Any = None, **kwargs) -> dict:
    """Load a checkpoint from the web.

    If the environment variable ``MMBCKD_CHECKPOINTS`` names a folder with a
    file of the URL's name, that file is taken. Else the file is downloaded
    into the cache of :mod:`torch.hub`, as by mmengine.

    Args:
        filename (str): The URL.
        map_location (str | Callable | None): See :func:`torch.load`.
        kwargs: See mmengine's function of this name.

    Returns:
        dict: The checkpoint.

    Raises:
        OSError: If it cannot be downloaded, or the folder does not exist.
        UnpicklingError: If it holds anything but tensors and plain types.
        ValueError: If it is cut off, or no checkpoint at all.
    """
    name = osp.basename(urlparse(filename).path)
    folder = os.environ.get(FOLDER)
    if folder:
        if not osp.isdir(folder):
            raise FileNotFoundError(
                f'Expected {FOLDER} to name a folder of checkpoints, but '
                f'{folder} is none. Correct or unset the environment variable.'
            )
        path = osp.join(folder, name)
        if osp.isfile(path):
            print_log(f'{path} is taken for {filename}', logger='current')
            return load_from_local(path, map_location)
    cached = osp.join(
        kwargs.get('model_dir')
        or osp.join(torch.hub.get_dir(), 'checkpoints'),
        name,
    )
    try:
        return _load_from_http(filename, map_location, **kwargs)
    except Exception as error:
        if osp.isfile(cached):
            raise _unreadable(
                cached, error, f'Delete it: {filename} is downloaded again.'
            ) from None
        if not isinstance(error, (OSError, HTTPException)):
            raise
        lacks = f' The folder {folder} has no {name}.' if folder else ''
        raise OSError(
            f'{filename} cannot be downloaded ({error}).{lacks} Get {name} '
            'from elsewhere and run with its folder in the environment, '
            f'{FOLDER}=FOLDER, or give its path in place of the URL: as '
            '`teacher_ckpt`, as `load_from`, or for a backbone as '
            "`init_cfg=dict(type='Pretrained', checkpoint=PATH)`."
        ) from None


# The short names open-mmlab:// and torchvision:// call it by this name.
checkpoint.load_from_http = load_from_http


def _unreadable(path: str, error: Exception, remedy: str) -> Exception:
    """What to raise where torch.load failed on a file."""
    with open(path, 'rb') as stream:
        old_format = stream.read(1) == b'\x80'
    # Not PyTorch's advice to switch its protection off.
    said = (
        re.split(r'\n\s*Check the doc| by default\. |\.\s*$', str(error))[0]
        .rstrip('. \n')
        .rpartition('\n')[2]
        .strip()
    )
    if (
        not (zipfile.is_zipfile(path) or old_format)
        or isinstance(error, EOFError)
        or re.search('corrupt|PytorchStream', said)
    ):
        return ValueError(
            f'{path} ({osp.getsize(path)} bytes) is not a checkpoint that '
            f'PyTorch can read: it is cut off or damaged, or another kind of '
            f'file. {remedy}'
        )
    if isinstance(error, (UnpicklingError, TypeError, ValueError)):
        return UnpicklingError(
            f'{path} is refused: besides tensors and plain types it holds '
            f'what could run code when it is loaded ({said}). Nothing of it '
            'was run. Do not use it, unless you trust its author and '
            'save its `state_dict` alone.'
        )
    return error


@register_backend('local', prefixes='', force=True)
class WholeFileBackend(LocalBackend):
    """mmengine's local files, but a file that is written is whole.

    A run that is killed while it saves, or a full disk, leaves under the
    final name what was there before.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Args:
            obj (bytes): Its content.
            filepath (str | Path): Its path. Missing folders are made.

        Raises:
            OSError: If it cannot be written.
        """
        target = osp.realpath(filepath)
        if osp.exists(target) and not osp.isfile(target):  # a device
            super().put(obj, filepath)
            return
        temporary = f'{target}.tmp'
        try:
            mkdir_or_exist(osp.dirname(target))
            with open(temporary, 'wb') as stream:
                stream.write(obj)
            os.replace(temporary, target)
        except OSError as error:
            with suppress(OSError):
                os.remove(temporary)
            raise OSError(
                error.errno,
                f'{filepath} cannot be written: '
                f'{error.strerror}. What was written before is kept. Free '
                'space, or make the folder writable or name another one '
                '(`work_dir`), and go on with --resume.',
            ) from None
