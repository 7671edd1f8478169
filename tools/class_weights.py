"""Class weights by median frequency, for WeightedCrossEntropyLoss.

A class weighs as much as it is rare: the median of all frequencies by its own.
The frequency of a class is its share of the labeled pixels of those training
images that it occurs in (Eigen and Fergus, ICCV 2015). `--power 0.5` takes the
square root of each weight: with the whole weight a network sees rare classes
where there are none.
"""

import argparse
from collections.abc import Iterable

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config that trains on the data set')
    parser.add_argument(
        '--power',
        type=float,
        default=1.0,
        help='exponent of the weights; 0 weighs all alike (default: 1)',
    )
    return parser.parse_args()


def median_frequency_weights(
    label_maps: Iterable[np.ndarray], num_classes: int, power: float = 1.0
) -> list[float]:
    """The weight of each class, by median frequency balancing.

    Args:
        label_maps (Iterable[np.ndarray]): Integer maps; what is not in
            0 … ``num_classes`` - 1 is not labeled.
        num_classes (int): Number of classes.
        power (float): Exponent of the weights. Defaults to 1.0.

    Returns:
        list[float]: Weights; the median class has 1.

    Raises:
        ValueError: If a class does not occur.

    References:
        Eigen, Fergus. Predicting depth, surface normals and semantic labels
        with a common multi-scale convolutional architecture. ICCV 2015.
    """
    pixels = np.zeros(num_classes)
    labeled = np.zeros(num_classes)
    for label_map in label_maps:
        here = label_map[(label_map >= 0) & (label_map < num_classes)]
        counts = np.bincount(here, minlength=num_classes)
        pixels += counts
        labeled += (counts > 0) * counts.sum()
    if not pixels.all():
        raise ValueError(
            'Expected every class in the training labels, but '
            f'{np.flatnonzero(pixels == 0).tolist()} do not occur in them. '
            'Leave them out of the classes, or get labels that have them.'
        )
    frequency = pixels / labeled
    return ((np.median(frequency) / frequency) ** power).tolist()


def main() -> None:
    args = parse_args()
    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(
        dict(
            config.train_dataloader.dataset,
            pipeline=[dict(type='LoadAnnotations')],
        )
    )
    names = dataset.metainfo['classes']
    weights = median_frequency_weights(
        (dataset[i]['gt_seg_map'] for i in range(len(dataset))),
        len(names),
        args.power,
    )
    print('class_weight = [' + ', '.join(f'{w:.3f}' for w in weights) + ']')
    print(', '.join(names))


if __name__ == '__main__':
    main()
