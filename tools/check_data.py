"""Say what is missing or misplaced in the data sets of a config.

Checks all that training, validation and test will read. Ends with "ready" and
exit code 0, or with exit code 1 and a list of what was expected, what was
found instead and what to do.
"""

import argparse
import os
import os.path as osp
import sys

from mmengine.config import Config

from mmbckd.datasets.checks import (
    check_config,
    datasets_of,
    evaluators_of,
)


def set_data_root(cfg: Config, data_root: str) -> str:
    """Have all data sets and evaluators of a config read another folder.

    Args:
        cfg (Config): The config, which is changed.
        data_root (str): The data root to set.

    Returns:
        str: The data root that the config had.

    Raises:
        ValueError: If it had no or several data roots.
    """
    datasets = [dataset for _, dataset in datasets_of(cfg)]
    roots = {osp.normpath(d.get('data_root') or '') for d in datasets}
    if len(roots) > 1 or roots == {'.'}:
        raise ValueError(
            'Expected data sets of one `data_root` to set another, but the '
            f'config has {sorted(roots)}. Check it without --data-root.'
        )
    (old,) = roots
    for dataset in datasets:
        dataset['data_root'] = data_root
    for evaluator in evaluators_of(cfg):
        file = osp.normpath(evaluator['ann_file'])
        if file.startswith(old + os.sep):
            evaluator['ann_file'] = osp.join(data_root, osp.relpath(file, old))
    return old


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config that will be trained')
    parser.add_argument(
        '--data-root', help='folder to check instead of that of the config'
    )
    parser.add_argument(
        '--num-samples',
        type=int,
        default=20,
        help='images and label maps of each data set to open, evenly spaced '
        '(default: 20)',
    )
    args = parser.parse_args()
    if args.num_samples < 0:
        parser.error(
            f'--num-samples must be at least 0, but got {args.num_samples}'
        )
    try:
        cfg = Config.fromfile(args.config)
        old = args.data_root and set_data_root(cfg, args.data_root)
        reports = check_config(cfg, args.num_samples)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    for report in reports:
        print(f'\n{report.title}')
        found = f'problems: {len(report.problems)}'
        print(f'  {"; ".join([*report.facts, found])}')
        for warning in report.warnings:
            print(f'  warning: {warning}')
    problems = list(dict.fromkeys(p for r in reports for p in r.problems))
    if problems:
        print('\nNot ready:')
        for i, problem in enumerate(problems, 1):
            print(f'{i:3}. {problem}')
        sys.exit(1)
    if args.data_root:
        print(
            f'\nThe config itself reads {old}. Link the data there: '
            f'ln -s {osp.abspath(args.data_root)} {old}'
        )
    print('\nready')


if __name__ == '__main__':
    main()
