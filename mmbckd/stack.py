"""Which of OpenMMLab's stacks is installed: its own or the maintained fork.

The packages of both have the same modules, but not the same names: ``mmcv``
comes with the distribution ``mmcv`` or ``onedl-mmcv``. See
:data:`mmbckd.version.STACKS`.
"""

from functools import cache
from importlib.metadata import (
    PackageNotFoundError,
    packages_distributions,
    version,
)

from .version import CORE, STACKS, __version__

_MAKE_SETUP = (
    'run `make setup` in the source tree of mmbckd (`make setup STACK=onedl` '
    'for the maintained fork)'
)


def find_stacks() -> dict[str, dict[str, str]]:
    """What is installed of every stack.

    Returns:
        dict[str, dict[str, str]]: The names of the stacks of which anything
        is, each with the versions of its distributions. One, if all is well.
    """
    stacks = {name: _versions(needed) for name, needed in STACKS.items()}
    return {name: found for name, found in stacks.items() if found}


@cache
def distribution_of(module: str) -> str:
    """What a module was installed as, which is what mim calls it.

    Args:
        module (str): The name of an installed module, such as ``'mmseg'``.

    Returns:
        str: ``'mmsegmentation'`` or, if that is the stack,
        ``'onedl-mmsegmentation'``.
    """
    return packages_distributions()[module][0]


def stack_problem() -> str | None:
    """What is missing, mixed up or unsupported, in one sentence, or None."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError as error:
        return (
            f'mmbckd {__version__} cannot tell which versions it finds '
            f'({error}): {_MAKE_SETUP}, or `pip install packaging`.'
        )

    stacks = find_stacks()
    if not stacks:
        return (
            f'mmbckd {__version__} needs the packages of OpenMMLab, but found '
            f'neither {_join(STACKS["openmmlab"])} nor '
            f'{_join(STACKS["onedl"])}: {_MAKE_SETUP}.'
        )
    if len(stacks) > 1:
        all_found = {k: v for each in stacks.values() for k, v in each.items()}
        have = ', '.join(
            f'{name} {found}' for name, found in all_found.items()
        )
        return (
            f'mmbckd {__version__} needs one stack of OpenMMLab, but found '
            f'parts of {len(stacks)}, which overwrite the modules of one '
            f'another ({have}): `pip uninstall {" ".join(all_found)}`, then '
            f'{_MAKE_SETUP}.'
        )

    (stack,) = stacks
    needed = {**CORE, **STACKS[stack]}
    found = _versions(needed)
    wrong = {
        name: versions
        for name, versions in needed.items()
        if not SpecifierSet(versions).contains(
            found.get(name, '0'), prereleases=True
        )
    }
    if not wrong:
        return None
    have = ', '.join(
        f'{found.get(name, "nothing")} for {name}{versions}'
        for name, versions in wrong.items()
    )
    install = ' '.join(f'"{name}{wrong[name]}"' for name in wrong)
    return (
        f'mmbckd {__version__} needs other versions (found {have}): '
        f'{_MAKE_SETUP}, or `pip install {install}`.'
    )


def _versions(names: dict) -> dict[str, str]:
    """The versions of the distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _join(names: dict) -> str:
    return ', '.join(names)
