"""Test with MMRazor's own script: ``mim test mmbckd CONFIG`` runs this.

It takes the arguments of ``mim test mmrazor CONFIG`` and does the same.
"""

from train import main

if __name__ == '__main__':
    main()
