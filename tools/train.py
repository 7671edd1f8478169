"""Train with MMRazor's own script: ``mim train mmbckd CONFIG`` runs this.

It takes the arguments of ``mim train mmrazor CONFIG`` and does the same.
"""

import importlib.util
import os.path as osp
import runpy
import sys


def main() -> None:
    """Hand over to the script of this name in the installed MMRazor."""
    spec = importlib.util.find_spec('mmrazor')
    if spec is None or spec.origin is None:
        raise SystemExit(
            'mmrazor is not installed: run `pip install mmrazor==1.0.0`.'
        )
    script = osp.join(
        osp.dirname(spec.origin), '.mim', 'tools', osp.basename(sys.argv[0])
    )
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    main()
