"""Links from one file of the documentation to another."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob('*.md'),
    *ROOT.glob('docs/*.md'),
    *ROOT.glob('docs/en/*.md'),
    *ROOT.glob('docs/en/*/*.md'),
    *ROOT.glob('configs/*/README.md'),
    *ROOT.glob('benchmarks/README.md'),
    *ROOT.glob('results/README.md'),
]
# Written when the site is built.
GENERATED = {'model_zoo.md', 'api.rst'}


def anchors(page: Path) -> set:
    """The names that GitHub gives the headings of a page."""
    titles = re.findall(r'(?m)^#+ (.*)$', page.read_text())
    return {
        re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
        for title in titles
    }


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r'(?ms)^```.*?^```$', '', page.read_text())
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in link:
            continue
        name, _, anchor = link.partition('#')
        target = (page.parent / name).resolve() if name else page
        if target.name not in GENERATED:
            assert target.exists(), link
            if anchor and target.suffix == '.md':
                assert anchor in anchors(target), link
