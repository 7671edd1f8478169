"""Makes MMRazor 1.0.0 work on PyTorch 2, without touching its files.

MMRazor's last release predates PyTorch 2.0, and the maintained fork of the
rest of OpenMMLab (``onedl-mmcv`` and its like). This module patches, in the
running process only, what has changed since then; once upstream does so
itself, this file and its start-up hook can be deleted. ``mmbckd_compat.pth``
calls :func:`install` when Python starts, because ``mim train mmrazor`` runs
MMRazor's own script in a new process, which imports MMRazor before it reads
any config.

:func:`install` only puts a finder on ``sys.meta_path``. Nothing is imported or
changed before ``mmrazor`` itself is imported, but for two modules of the fork
(see 7), and nothing at all if the environment variable ``MMBCKD_NO_COMPAT`` is
``1``.
"""

from __future__ import annotations

import importlib
import os
import sys

# Typing names are needed by type checkers only, and importing `typing` at
# every start of Python is not free.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ['install', 'patched', 'why_not']

SWITCH = 'MMBCKD_NO_COMPAT'
MMRAZOR = '1.0.0'
MIN_TORCH = (2, 7)
MMENGINE = (0, 10)
MAX_MMCV = '2.1.0'  # the newest that MMRazor accepts
FORK_OF_MMCV = (2, 3)

_patched: list[str] = []
_why_not: list[str] = []


def patched() -> list[str]:
    """What has been patched in this process, a sentence each."""
    return list(_patched)


def why_not() -> str | None:
    """Why nothing was patched in this process, or None."""
    if os.environ.get(SWITCH) == '1':
        return f'the environment variable {SWITCH} is 1: unset it.'
    return _why_not[0] if _why_not else None


def install() -> None:
    """Wait for the first import of ``mmrazor``, then patch; idempotent."""
    if os.environ.get(SWITCH) == '1':
        return
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    razor = sys.modules.get('mmrazor')
    if razor is not None:
        # Somebody imported it before us: too late for the finder.
        finder.patch(razor.__spec__)


class _Finder:
    """Sees the first import of MMRazor, and provides the stand-in."""

    def __init__(self) -> None:
        self.waiting = True  # for MMRazor
        self.active = False  # MMRazor is patched

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Part of the protocol of ``sys.meta_path``."""
        if name == 'mmrazor' and self.waiting:
            return self._find(name, path, target, before=self.patch)
        if name in FORK:
            return self._find(name, path, target, after=FORK[name])
        if name == CWD and self.active:
            return self._find(name, path, target, after=_take_any_layout)
        if (name + '.').startswith(STAND_IN + '.') and self.active:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, _StandIn(), is_package=name == STAND_IN)
        return None

    def _find(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None,
        before: Callable = lambda spec: None,
        after: Callable = lambda module: None,
    ) -> ModuleSpec | None:
        """A module's real spec, made to patch before or after its code runs.

        Looking for MMRazor (``importlib.util.find_spec``) must stay cheap, so
        that the patching is tied to the execution of its ``__init__``.
        """
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, 'find_spec'):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        run = getattr(spec.loader, 'exec_module', None)
        if run is None:  # a bare folder named mmrazor
            return spec

        def exec_module(module: ModuleType) -> None:
            before(spec)
            run(module)
            after(module)

        spec.loader.exec_module = exec_module
        return spec

    def patch(self, spec: ModuleSpec) -> None:
        """Patch MMRazor, unless its version is not supported."""
        self.waiting = False
        self.active = _patch(spec)


def _patch(spec: ModuleSpec) -> bool:
    """Apply every patch, or say in one sentence why there is none."""
    reason = _unsupported(spec)
    if reason is not None:
        _why_not.append(reason)
        import warnings

        warnings.warn(f'mmbckd patches nothing here: {reason}', stacklevel=2)
        return False
    for patch in (
        _patch_max_mmcv,
        _patch_quantization,
        _patch_checkpoints,
        _patch_local_rank,
        _patch_cpu_distributed,
        _patch_cwd,
    ):
        what = patch(spec)
        if what is not None:
            _patched.append(what)
    _patch_log()
    return True


def _unsupported(spec: ModuleSpec) -> str | None:
    """What to install where this module does not know the versions."""
    root = list(spec.submodule_search_locations or [''])[0]
    found = {'mmrazor': _version_in(os.path.join(root, 'version.py'))}
    for name in ('mmengine', 'torch'):
        try:
            found[name] = importlib.import_module(name).__version__
        except ImportError as error:
            return (
                f'{name} cannot be imported ({error}); install it: `pip '
                'install "mmengine>=0.10,<0.11" "torch>=2.7"`.'
            )
    if (
        found['mmrazor'] == MMRAZOR
        and _digits(found['mmengine'])[:2] == MMENGINE
        and _digits(found['torch']) >= MIN_TORCH
    ):
        return None
    have = ', '.join(f'{name} {found[name]}' for name in sorted(found))
    return (
        f'it expects mmrazor {MMRAZOR} with mmengine 0.10.x and torch>=2.7, '
        f'but found {have}; run `pip install "mmrazor=={MMRAZOR}" '
        f'"mmengine>=0.10,<0.11" "torch>=2.7"`.'
    )


def _version_in(file: str) -> str:
    """``__version__`` as a version.py writes it, without importing it."""
    import re

    try:
        with open(file, encoding='utf-8') as stream:
            match = re.search(
                r'^__version__ = [\'"](.+)[\'"]', stream.read(), re.MULTILINE
            )
    except OSError:
        match = None
    return match[1] if match else 'of unknown version'


def _digits(version: str) -> tuple[int, ...]:
    """``'2.11.0+cu130'`` to ``(2, 11, 0)``; ``'2.9.0a0'`` to ``(2, 9, 0)``."""
    import re

    return tuple(map(int, re.findall(r'\d+', version)[:3]))


# --------------------------------------------------------------------------- #
# 1. Quantization: `import mmrazor.models`
#
# mmrazor.structures.quantization.backend_config imports names that PyTorch 2.0
# removed from torch.ao.quantization.fuser_method_mappings, and MMRazor imports
# it from everywhere. Only that sub-package is replaced.

STAND_IN = 'mmrazor.structures.quantization.backend_config'
BACKENDS = ('native', 'academic', 'openvino', 'tensorrt')


def _patch_quantization(spec: ModuleSpec) -> str | None:
    if STAND_IN in sys.modules:
        return None
    return (
        'mmrazor.models can be imported: the quantization backends, '
        'written for PyTorch 1, are replaced by a stand-in that raises '
        'NotImplementedError when it is used'
    )


def _no_quantization(what: str) -> NotImplementedError:
    return NotImplementedError(
        f'{what} is not available: the quantization of mmrazor {MMRAZOR} '
        'needs PyTorch 1.13 and mmbckd only patches its distillation, pruning '
        'and architecture search on PyTorch 2; to quantize, install '
        '"torch==1.13.*" in an environment without mmbckd.'
    )


def _backend_configs() -> Any:
    """An inert ``BackendConfigs``: a mapping that raises when it is read."""
    from collections.abc import Mapping

    class BackendConfigs(Mapping):
        """Stand-in for the mapping from backend name to its config."""

        def __getitem__(self, key: Any) -> Any:
            raise _no_quantization(f'BackendConfigs[{key!r}]')

        def __iter__(self) -> Iterator:
            raise _no_quantization('BackendConfigs')

        def __len__(self) -> int:
            raise _no_quantization('BackendConfigs')

    return BackendConfigs()


def _backend_function(name: str) -> Callable:

    def function(*args: Any, **kwargs: Any) -> Any:
        raise _no_quantization(f'{name}()')

    function.__name__ = function.__qualname__ = name
    return function


class _StandIn:
    """Loader of the stand-in for the quantization backends."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Take the default module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill in the names that the real sub-package exports."""
        if module.__name__ != STAND_IN:
            raise ImportError(str(_no_quantization(module.__name__)))
        module.__doc__ = 'Inert stand-in, see mmbckd_compat.'
        names = {'BackendConfigs': _backend_configs()}
        for backend in BACKENDS:
            for name in (
                f'get_{backend}_backend_config',
                f'get_{backend}_backend_config_dict',
            ):
                names[name] = _backend_function(name)
        vars(module).update(names, __all__=list(names))


# --------------------------------------------------------------------------- #
# 2. Checkpoints: `--resume`, `teacher_ckpt`, `load_from`
#
# Since PyTorch 2.6 torch.load unpickles allow-listed types only. MMEngine's
# checkpoints hold its HistoryBuffer and numpy arrays and scalars. A checkpoint
# is untrusted input and stays so, although the fork of MMEngine loads whatever
# torch.load has refused without any restriction:
#
# * HistoryBuffer pickles its statistics methods, which needs `getattr`; what
#   is allow-listed under that name gives those methods and nothing else;
# * numpy.dtype is not allow-listed either, since a forged state of a dtype
#   makes numpy read arbitrary bytes as object pointers. What stands under its
#   name gives the plain numeric dtypes, whose state numpy never changes, and
#   without a forged dtype the state of an array is harmless.

STATISTICS = ('min', 'max', 'current', 'mean')
DTYPES = (
    'b1',
    'i1',
    'i2',
    'i4',
    'i8',
    'u1',
    'u2',
    'u4',
    'u8',
    'f2',
    'f4',
    'f8',
    'c8',
    'c16',
)


def _refuse(message: str) -> Exception:
    from pickle import UnpicklingError

    return UnpicklingError(message)


def _history_method(owner: Any, name: Any) -> Callable:
    """``getattr`` in a checkpoint: HistoryBuffer's statistics only."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in STATISTICS:
        raise _refuse(
            'Expected a checkpoint to use getattr for the methods '
            f'{", ".join(STATISTICS)} of HistoryBuffer only, but got '
            f'{name!r} of {owner!r}. Do not load it unless you trust its '
            'author.'
        )
    return vars(HistoryBuffer)[name]


def _plain_dtype(code: Any, *_: Any) -> Any:
    """``numpy.dtype`` in a checkpoint: numbers and booleans only."""
    import numpy as np

    if not isinstance(code, str) or code not in DTYPES:
        raise _refuse(
            'Expected numpy objects of a plain numeric dtype '
            f'({", ".join(DTYPES)}) in a checkpoint, but got {code!r}. Do '
            'not load it unless you trust its author.'
        )
    return np.dtype(code)


def _ndarray() -> None:
    """``numpy.ndarray`` in a checkpoint: named there, but never called."""
    raise _refuse('Expected no call of numpy.ndarray in a checkpoint.')


def _new_array(*_: Any) -> Any:
    """``numpy.core.multiarray._reconstruct``: an array yet to be filled."""
    import numpy as np

    return np.empty(0, np.int8)


def _scalar(dtype: Any, data: Any) -> Any:
    """``numpy.core.multiarray.scalar`` for the dtypes allowed above."""
    import numpy as np

    if not isinstance(dtype, np.dtype) or len(data) != dtype.itemsize:
        raise _refuse('A numpy scalar in the checkpoint is malformed.')
    return np.frombuffer(data, dtype)[0]


def _patch_checkpoints(spec: ModuleSpec) -> str | None:
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    allowed = [
        HistoryBuffer,
        (_history_method, 'builtins.getattr'),
        (_plain_dtype, 'numpy.dtype'),
        (_ndarray, 'numpy.ndarray'),
    ]
    for core in ('numpy.core', 'numpy._core'):  # as numpy 1 and 2 write it
        allowed += [
            (_new_array, f'{core}.multiarray._reconstruct'),
            (_scalar, f'{core}.multiarray.scalar'),
        ]
    # PyTorch sets the state of an object only if its type is in the list. A
    # pickle names a global 'module.name': without a dot it cannot name these.
    allowed += [(np.ndarray, 'ndarray')]
    allowed += [(type(np.dtype(code)), f'dtype {code}') for code in DTYPES]
    torch.serialization.add_safe_globals(allowed)

    from mmengine.runner import checkpoint

    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = torch.load
    return (
        'checkpoints that mmengine wrote can be loaded and resumed: '
        'HistoryBuffer and plain numpy numbers are allow-listed for '
        'torch.load, which stays restricted (weights_only)'
    )


# --------------------------------------------------------------------------- #
# 3. `--launcher pytorch`
#
# Since PyTorch 2.0 torch.distributed.launch passes --local-rank=N; MMRazor's
# tools know --local_rank only.


def _patch_local_rank(spec: ModuleSpec) -> str | None:
    roots = list(spec.submodule_search_locations or [])
    script = getattr(sys.modules.get('__main__'), '__file__', None)
    if not roots or not script:
        return None
    # In a development install .mim/tools is a link.
    tools = os.path.realpath(os.path.join(roots[0], '.mim', 'tools'))
    if not os.path.realpath(script).startswith(tools + os.sep):
        return None
    old, new = '--local-rank', '--local_rank'
    arguments = [
        new + argument[len(old) :]
        if argument == old or argument.startswith(old + '=')
        else argument
        for argument in sys.argv[1:]
    ]
    if arguments == sys.argv[1:]:
        return None
    sys.argv[1:] = arguments
    return (
        f"the launcher's {old} is handed to mmrazor's "
        f'{os.path.basename(script)} as {new}'
    )


# --------------------------------------------------------------------------- #
# 4. Several processes without a GPU
#
# MMEngine selects a CUDA device and hands its number to
# DistributedDataParallel, whatever the backend.


def _patch_cpu_distributed(spec: ModuleSpec) -> str | None:
    from mmengine.device import get_device

    if get_device() != 'cpu':
        return None
    from functools import wraps

    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel
    from torch import distributed

    init_dist = utils._init_dist_pytorch

    @wraps(init_dist)
    def init_dist_on_cpu(
        backend: str, init_backend: str = 'torch', **kwargs: Any
    ) -> None:
        if init_backend != 'torch':
            init_dist(backend, init_backend=init_backend, **kwargs)
            return
        if backend == 'nccl':
            raise ValueError(
                'Expected a backend that works without GPUs, since PyTorch '
                'finds none, but got nccl. To train on CPUs, set env_cfg = '
                "dict(dist_cfg=dict(backend='gloo')) in the config."
            )
        distributed.init_process_group(backend=backend, **kwargs)

    init_ddp = MMDistributedDataParallel.__init__

    @wraps(init_ddp)
    def init_ddp_on_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop('device_ids', None)
        init_ddp(self, *args, **kwargs)

    utils._init_dist_pytorch = init_dist_on_cpu
    MMDistributedDataParallel.__init__ = init_ddp_on_cpu
    return (
        '--launcher pytorch works without a GPU: mmengine sets no CUDA '
        "device (use dist_cfg=dict(backend='gloo'))"
    )


# --------------------------------------------------------------------------- #
# 5. Channel-wise distillation of channels-last logits
#
# ChannelWiseDivergence calls `view` on the logits, which fails where they lie
# channels-last in memory: SegFormer's always do, and those of any model that
# is trained in that memory format.

CWD = 'mmrazor.models.losses.cwd'


def _patch_cwd(spec: ModuleSpec) -> str | None:
    if CWD in sys.modules:
        return None
    return (
        'ChannelWiseDivergence takes logits of any memory format, such as '
        'those of SegFormer'
    )


def _take_any_layout(module: ModuleType) -> None:
    """What is contiguous already is not copied."""
    from functools import wraps

    forward = module.ChannelWiseDivergence.forward

    @wraps(forward)
    def forward_contiguous(self: Any, preds_S: Any, preds_T: Any) -> Any:
        return forward(self, preds_S.contiguous(), preds_T.contiguous())

    module.ChannelWiseDivergence.forward = forward_contiguous


# --------------------------------------------------------------------------- #
# 6. The maintained fork: `import mmrazor`
#
# MMRazor refuses every mmcv that is newer than 2.1.0. Only the limit in its
# `__init__` is replaced as it is compiled: nothing sees another version.


def _patch_max_mmcv(spec: ModuleSpec) -> str | None:
    import mmcv

    if _digits(mmcv.__version__)[:2] != FORK_OF_MMCV:
        return None
    loader = spec.loader
    source = loader.get_source(spec.name)
    limit = "mmcv_maximum_version = '{}'"
    source = source.replace(
        limit.format(MAX_MMCV), limit.format(mmcv.__version__)
    )
    loader.get_code = lambda name: loader.source_to_code(source, spec.origin)
    return f'mmrazor accepts mmcv {mmcv.__version__} of the maintained fork'


# --------------------------------------------------------------------------- #
# 7. The maintained fork: `mim train mmrazor`, `_base_ = 'mmseg::...'`
#
# * Its mim takes the folder of the first file that a package has installed for
#   its module. That is the metadata if it is called mmrazor-1.0.0.dist-info
#   ('-' comes before '/'), and __pycache__ if a wheel has modules outside of
#   packages, as this one.
# * Its mmengine looks for the configs of mmseg in the distribution
#   `mmsegmentation`, which is called `onedl-mmsegmentation` there.


def _find_modules(utils: ModuleType) -> None:
    """Patch ``mim.utils.utils``."""
    from functools import wraps

    get_installed_path = utils.get_installed_path

    @wraps(get_installed_path)
    def get_path_of_module(package: str) -> str:
        path = get_installed_path(package)
        folder, name = os.path.split(path)
        if name != '__pycache__' and not name.endswith('.dist-info'):
            return path
        return os.path.join(folder, utils.package2module(package))

    utils.get_installed_path = get_path_of_module


def _find_configs(utils: ModuleType) -> None:
    """Patch ``mmengine.config.utils``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version('onedl-mmsegmentation')
    except PackageNotFoundError:
        return
    utils.MODULE2PACKAGE['mmseg'] = 'onedl-mmsegmentation'


FORK = {
    'mim.utils.utils': _find_modules,
    'mmengine.config.utils': _find_configs,
}


# --------------------------------------------------------------------------- #


def _patch_log() -> None:
    """Say in the log of every run what was patched."""
    from functools import wraps

    from mmengine.runner import Runner

    log_env = Runner._log_env

    @wraps(log_env)
    def log_env_and_patches(self: Any, env_cfg: dict) -> None:
        log_env(self, env_cfg)
        self.logger.info(
            'mmbckd patched mmrazor for this run (off with '
            f'{SWITCH}=1): ' + '; '.join(_patched) + '.'
        )

    Runner._log_env = log_env_and_patches
