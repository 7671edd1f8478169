"""Configuration of the documentation site, for Sphinx."""

import sys
from pathlib import Path

import mmbckd

sys.path.insert(0, str(Path(__file__).parent))
import make_pages

project = 'mmbckd'
author = 'mmbckd contributors'
copyright = '2026, mmbckd contributors'
release = version = mmbckd.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'sphinx-mathjax-offline',  # formulas without a network
]
exclude_patterns = ['_build']
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 4

autodoc_member_order = 'groupwise'
autodoc_typehints = 'none'  # the docstrings give the types
napoleon_use_ivar = True  # attributes are documented by their class
napoleon_use_rtype = False

html_theme = 'furo'
html_title = f'mmbckd {version}'
html_static_path = ['_static']
html_css_files = ['custom.css']
copybutton_exclude = '.linenos, .gp, .go'


def setup(app) -> None:
    """Write the pages that are generated before any is read."""
    make_pages.write(Path(app.srcdir))
