"""The version, and the versions of everything that mmbckd needs.

``setup.py`` declares :data:`CORE` and :data:`UNDECLARED` as dependencies and
each of :data:`STACKS` as an extra; ``mmbckd/stack.py`` checks :data:`CORE` and
:data:`STACKS` on import: this is the one place to change any. Nothing may be
imported here.
"""

__version__ = '0.2.0'

# mmcv 2.1.0 of OpenMMLab's own stack cannot be built with Python 3.13.
PYTHON = '>=3.10,<3.14'

# What mmbckd is written against: distribution -> supported versions.
CORE = {
    'torch': '>=2.1',
    'mmrazor': '==1.0.0',
}

# One of these besides, never two, for they install the same modules. pip has
# no way to require either: if mmbckd required `mmcv`, installing it would
# overwrite the modules of `onedl-mmcv`. So each is an extra.
STACKS = {
    'openmmlab': {
        'mmengine': '>=0.10,<0.11',
        'mmcv': '==2.1.0',
        'mmsegmentation': '==1.2.2',
        'mmdet': '==3.3.0',
        'openmim': '>=0.3.9',
    },
    # The maintained fork.
    'onedl': {
        'onedl-mmengine': '>=0.10.12,<0.11',
        'onedl-mmcv': '>=2.3.6,<2.4',
        'onedl-mmsegmentation': '>=1.4.2,<1.5',
        'onedl-mmdetection': '>=3.5.1,<3.6',
        'onedl-mim': '>=0.5.1,<0.6',
    },
}

# What else is needed at run time, most of it by packages that forget to
# declare it.
UNDECLARED = {
    'torchvision': '',  # mmseg, mmdet, mmengine
    'numpy': '',
    'pillow': '',
    'matplotlib': '',
    'pycocotools': '',
    'packaging': '',
    'rich': '',
    'jinja2': '',
    'pandas': '',
    'tabulate': '',  # pandas' Markdown
    'filelock': '>=4.1',
    'submitit': '',
    'joblib': '',  # mmrazor
    'scipy': '',  # mmrazor
    'scikit-learn': '',  # mmrazor
    'pydacefit': '',  # mmrazor
    'ordered-set': '',  # mmrazor
    'regex': '',  # mmseg
    'ftfy': '',  # mmseg
    'prettytable': '',  # mmseg
    'setuptools': '<81',  # mmengine and openmim import its pkg_resources
    # From 0.0.10 on it needs openxlab, which needs setuptools 60, which
    # Python 3.12 cannot run.
    'opendatalab': '<0.0.10',
}
