"""The version, and the versions of everything that mmbckd needs.

``setup.py`` declares :data:`STACK` and :data:`UNDECLARED` as dependencies and
``mmbckd/__init__.py`` checks :data:`STACK` on import: this is the one place to
change either. Nothing may be imported here.
"""

__version__ = '0.2.0'

PYTHON = '>=3.10,<3.13'

# What mmbckd is written against: distribution -> supported versions.
STACK = {
    'torch': '>=2.1',
    'mmengine': '>=0.10,<0.11',
    'mmcv': '==2.1.0',
    'mmsegmentation': '==1.2.2',
    'mmdet': '==3.3.0',
    'mmrazor': '==1.0.0',
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
    'openmim': '>=0.3.9',
    # From 0.0.10 on it needs openxlab, which needs setuptools 60, which
    # Python 3.12 cannot run.
    'opendatalab': '<0.0.10',
}
