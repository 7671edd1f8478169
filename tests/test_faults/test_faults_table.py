"""docs/en/notes/faults.md: every row is run by tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / 'docs' / 'en' / 'notes' / 'faults.md'
TEST = re.compile(r'`(tests/[\w/]+\.py)::(\w+)`')


def rows() -> list:
    """Cells of all tables, without their heads."""
    lines = FAULTS.read_text().splitlines()
    cells = [
        [c.strip() for c in line.strip('|').split('|')]
        for line in lines
        if line.startswith('|')
    ]
    return [
        row
        for row in cells
        if row[0] != 'fault' and not row[0].startswith('---')
    ]


def named_in(file: str) -> dict:
    """Decorators of a file's tests, by name."""
    tree = ast.parse((ROOT / file).read_text())
    return {
        node.name: ' '.join(map(ast.unparse, node.decorator_list))
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_fault_has_a_test_that_is_run():
    table = rows()
    assert len(table) >= 30
    for row in table:
        assert len(row) == 4 and all(row), row
        named = TEST.findall(row[3])
        assert named and TEST.sub('', row[3]).strip(' ,') == '', row
        for file, name in named:
            found = named_in(file)
            assert name.startswith('test_') and name in found, (file, name)
            assert 'skip' not in found[name], name


def test_every_test_named_anywhere_in_the_page_exists():
    named = TEST.findall(FAULTS.read_text())
    assert all(name in named_in(file) for file, name in named)


def test_every_fault_is_told_once():
    faults = [row[0] for row in rows()]
    assert len(set(faults)) == len(faults)
