"""``python -m mmbckd``: what to send with a bug report.

Prints the environment, what the compat layer patched and what mmbckd has
registered. Exits with 1 if mmbckd does not work in this environment.
"""

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

import mmbckd
import mmbckd_compat

from .stack import find_stacks
from .version import CORE, STACKS

PACKAGES = (
    'numpy',
    'opencv-python',
    'opencv-python-headless',
    'setuptools',
)


def environment() -> Iterator[tuple[str, object]]:
    """What mmengine says about the machine, and all versions."""
    yield 'executable', sys.executable
    yield 'platform', platform.platform()
    try:
        from mmengine.utils.dl_utils import collect_env

        yield from collect_env().items()
    except ImportError as error:
        yield 'machine', f'unknown: {error}'
    # With none or both of them installed, what is missing of either.
    stacks = list(find_stacks())
    yield 'stack', ' and '.join(stacks) or 'none'
    needed = dict(CORE)
    for stack in stacks or STACKS:
        needed.update(STACKS[stack])
    for name in ('mmbckd', *needed, *PACKAGES):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = 'not installed'
        if name in needed:
            version += f' (needs {needed[name]})'
        yield name, version
    yield 'mmcv operators', mmcv_operators()


def mmcv_operators() -> str:
    """Whether mmcv was built with its operators, and with CUDA."""
    try:
        from mmcv.ops import get_compiler_version, get_compiling_cuda_version
    except ImportError as error:
        return f'missing: {error}'
    return (
        f'built with {get_compiler_version()}, CUDA '
        f'{get_compiling_cuda_version()}'
    )


def registered() -> Iterator[tuple[str, str]]:
    """Every registry and the names that mmbckd put into it."""
    import mmdet.registry
    import mmengine.registry
    import mmrazor.registry
    import mmseg.registry
    from mmengine.registry import Registry

    seen = set()  # mmseg and mmdet also name those of mmengine
    for module in (
        mmengine.registry,
        mmrazor.registry,
        mmseg.registry,
        mmdet.registry,
    ):
        for name, registry in sorted(vars(module).items()):
            if not isinstance(registry, Registry) or id(registry) in seen:
                continue
            seen.add(id(registry))
            ours = sorted(
                key
                for key, thing in registry.module_dict.items()
                if thing.__module__.partition('.')[0] == 'mmbckd'
            )
            if ours:
                yield f'{registry.scope}.{name}', ', '.join(ours)


def table(title: str, rows: Iterator[tuple[str, object]]) -> None:
    """Print rows below a title, in two columns."""
    print(f'\n{title}')
    for key, value in rows:
        lines = str(value).strip().replace('\n', f'\n{"":28}')
        print(f'  {key:<25} {lines}')


def main() -> int:
    """Print the report; 0 if all is well."""
    print('mmbckd: environment report')
    table('Environment', environment())
    print('\nPatched for mmrazor on PyTorch 2')
    for line in mmbckd_compat.patched() or [
        f'nothing: {mmbckd_compat.why_not() or "mmrazor is not imported"}'
    ]:
        print(f'  {line}')
    if mmbckd.problem is not None:
        print(f'\nmmbckd does not work here: {mmbckd.problem}')
        return 1
    table('Registered', registered())
    return 0


if __name__ == '__main__':
    sys.exit(main())
