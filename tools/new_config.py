"""Write the config that distills a teacher into a student, for one's own pair.

Both are built and run on a blank image; nothing is downloaded. Their stages
are listed, the modules for both terms are chosen by the rules that the configs
of mmbckd follow, and classes, normalization and data are checked. What is left
to be done by hand is said, and the command that starts the training.
"""

import argparse
import warnings

from rich.console import Console
from rich.table import Table

from mmbckd.new_config import NewConfig, write_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'student',
        help='config of the student, of MMSegmentation or MMDetection: a '
        "file, or a name such as 'mmseg::fcn/fcn_r18-d8_…'",
    )
    parser.add_argument('teacher', help='config of the teacher, likewise')
    parser.add_argument(
        '--teacher-ckpt',
        help='checkpoint of the teacher, a file or a URL (default: the one '
        'published with a teacher that is named by mmseg:: or mmdet::)',
    )
    parser.add_argument(
        '--out', help='config to write (default: bckd_STUDENT.py)'
    )
    parser.add_argument(
        '--force', action='store_true', help='replace an existing file'
    )
    args = parser.parse_args()
    # What upstream's models warn of while they are built is not news.
    warnings.filterwarnings('ignore')
    try:
        written = write_config(**vars(args))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    show(written)


def show(written: NewConfig) -> None:
    """Print what was found, what was written and what is left to do."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for side, stages in written.stages.items():
        table = Table('module', 'stride', 'channels', title=side)
        for row in stages.rows():
            table.add_row(*map(str, row))
        console.print(table)
    console.print(written.normalization)
    console.print(f'\nWritten: {written.file}')
    if written.todo:
        console.print('\nBefore the training:')
    for i, task in enumerate(written.todo, 1):
        console.print(f'{i:3}. {task}')
    console.print(f'\nTrain:\n{written.command}')


if __name__ == '__main__':
    main()
