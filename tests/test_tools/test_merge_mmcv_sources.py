"""Merging mmcv's C++ sources, by which `make setup` builds it sooner."""

import re
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def merge(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from merge_mmcv_sources import merge

    return merge


def test_each_source_is_compiled_once_in_one_of_the_units(merge, tmp_path):
    folder = tmp_path / 'mmcv' / 'ops' / 'csrc' / 'pytorch'
    texts = {}
    for i in range(13):
        path = folder / ('cpu' if i % 3 else '.') / f'op{i}.cpp'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'int op{i};')
        texts[path.resolve()] = path.read_text()
    header = folder / 'op.hpp'
    header.write_text('int header;')
    assert merge(tmp_path, 4) == 13
    # What mmcv's setup.py finds, and what the compiler reads from there.
    units = [*folder.glob('*.cpp'), *folder.glob('cpu/*.cpp')]
    assert len(units) == 4
    included = []
    for unit in units:
        for name in re.findall('#include "(.*)"', unit.read_text()):
            included.append((unit.parent / name).read_text())
    assert sorted(included) == sorted(texts.values())
    assert header.read_text() == 'int header;'


def test_folder_without_sources_is_named(merge, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        merge(tmp_path)
