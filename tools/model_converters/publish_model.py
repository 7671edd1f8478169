"""Keep what inference wants of a checkpoint: its weights and classes."""

import argparse

from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmbckd.engine import save_plain_checkpoint


def halved(tensor: Tensor) -> Tensor:
    """The tensor in float16, or as it is where that overflows."""
    half = tensor.half()
    return tensor if (half.isinf() & tensor.isfinite()).any() else half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint to read')
    parser.add_argument('out_file', help='checkpoint to write')
    parser.add_argument(
        '--half',
        action='store_true',
        help='store floating-point weights in half precision, but for those '
        'that are too large for it; a model that loads them computes in its '
        'own',
    )
    args = parser.parse_args()
    loaded = CheckpointLoader.load_checkpoint(args.in_file, map_location='cpu')
    weights = loaded['state_dict']
    if args.half:
        weights = {
            name: halved(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
    save_plain_checkpoint(weights, loaded['meta'], args.out_file)


if __name__ == '__main__':
    main()
