"""Keep what inference wants of a checkpoint: its weights and classes."""
import argparse

from mmengine.runner import CheckpointLoader

from mmbckd.engine import save_plain_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint to read')
    parser.add_argument('out_file', help='checkpoint to write')
    args = parser.parse_args()
    loaded = CheckpointLoader.load_checkpoint(args.in_file, map_location='cpu')
    save_plain_checkpoint(loaded['state_dict'], loaded['meta'], args.out_file)


if __name__ == '__main__':
    main()
