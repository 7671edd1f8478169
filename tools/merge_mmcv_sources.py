"""Merge the C++ sources of an unpacked mmcv into a few translation units.

Nearly all of the time that mmcv's CPU operators take to compile goes into
instantiating PyTorch's templates, which each of its 77 files does anew. The
files do not conflict, so that eight units which include them do it eight times
only.
"""

import argparse
from pathlib import Path

NUM_UNITS = 8


def merge(source: Path, num_units: int = NUM_UNITS) -> int:
    """Rename ``X.cpp`` to ``X.cpp.inc`` and include it from one of the units.

    Args:
        source (Path): The unpacked source package of mmcv.
        num_units (int): How many translation units are left. Defaults to 8.

    Returns:
        int: How many files were merged.

    Raises:
        FileNotFoundError: If the folder has no C++ sources of mmcv.
    """
    folder = source / 'mmcv' / 'ops' / 'csrc' / 'pytorch'
    # What mmcv's setup.py compiles for the CPU.
    files = sorted([*folder.glob('*.cpp'), *folder.glob('cpu/*.cpp')])
    if not files:
        raise FileNotFoundError(
            f'Expected the C++ sources of mmcv in {folder}, but found none.'
        )
    included = [path.rename(f'{path}.inc') for path in files]
    for unit in range(num_units):
        lines = [
            f'#include "{path.relative_to(folder)}"\n'
            for path in included[unit::num_units]
        ]
        (folder / f'unit_{unit}.cpp').write_text(''.join(lines))
    return len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', type=Path, help='the unpacked mmcv')
    args = parser.parse_args()
    print(f'{merge(args.source)} files in {NUM_UNITS} translation units')


if __name__ == '__main__':
    main()
