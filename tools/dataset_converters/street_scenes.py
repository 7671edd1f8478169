"""Make the street scenes of the quickstart.

Does nothing if the folder holds exactly this set already.
"""

import argparse
import sys

from mmbckd.datasets.street_scenes import write_dataset


def show(done: int, total: int) -> None:
    """Progress: one line that moves, or every tenth in a log."""
    if sys.stdout.isatty():
        print(f'\r{done}/{total}', end='\n' * (done == total), flush=True)
    elif done * 10 // total != (done - 1) * 10 // total:
        print(f'{done}/{total}', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        'root', nargs='?', default='data/street_scenes', help='folder to make'
    )
    parser.add_argument(
        '--num-train', type=int, default=240, help='training scenes'
    )
    parser.add_argument(
        '--num-val', type=int, default=60, help='validation scenes'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=[128, 256],
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the images',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the set')
    args = parser.parse_args()
    try:
        written = write_dataset(
            args.root, args.num_train, args.num_val, args.size, args.seed, show
        )
    except (OSError, ValueError) as error:
        sys.exit(f'{parser.prog}: {error}')
    print(
        f'{"Wrote" if written else "Already there:"} {args.num_train} + '
        f'{args.num_val} street scenes in {args.root}'
    )


if __name__ == '__main__':
    main()
