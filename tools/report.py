"""Compare training runs on one HTML page, which needs no network.

A run is a work directory of ``mim train``, or a config NAME.py that has its
checkpoint NAME.pth or its log NAME.json beside it.
"""

import argparse

from mmbckd.analysis.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='run to compare'
    )
    parser.add_argument(
        '--out',
        default='report.html',
        help='page to write (default: %(default)s)',
    )
    parser.add_argument(
        '--names', nargs='+', help='titles of the runs, in their order'
    )
    parser.add_argument(
        '--baseline',
        help='title of the run to compare the others with (default: the '
        'first)',
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=8,
        help='validation images to show (default: 8)',
    )
    parser.add_argument(
        '--max-images',
        type=int,
        default=200,
        help='validation images to predict, evenly spaced (default: 200)',
    )
    parser.add_argument(
        '--no-images',
        dest='draw_images',
        action='store_false',
        help='build no model and show no images',
    )
    parser.add_argument(
        '--device', help='where to run the models (default: a GPU if any)'
    )
    args = parser.parse_args()
    try:
        print(f'The report is {write_report(**vars(args))}')
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
