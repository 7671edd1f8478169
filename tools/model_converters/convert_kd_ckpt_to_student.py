"""Write the student of a distillation checkpoint as a plain checkpoint."""

import argparse

from mmbckd.engine import export_student_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a distillation')
    parser.add_argument(
        '--out-path',
        help='file to write (default: NAME_student.pth beside NAME.pth)',
    )
    args = parser.parse_args()
    try:
        print(export_student_checkpoint(args.checkpoint, args.out_path))
    except (FileNotFoundError, ValueError) as e:
        parser.error(str(e))


if __name__ == '__main__':
    main()
