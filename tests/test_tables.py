"""No figure of README.md is typed: it is what the logs say."""
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_readme_holds_what_the_logs_say():
    subprocess.run([sys.executable, 'tools/make_tables.py', '--check'],
                   cwd=ROOT,
                   check=True)


def test_a_changed_log_changes_the_table(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / 'tools'))
    import make_tables
    text = '<!-- table: camvid -->\nold\n<!-- end -->\n'
    monkeypatch.setattr(make_tables, 'ROOT', tmp_path)
    logs = tmp_path / 'results' / 'camvid'
    logs.mkdir(parents=True)
    name = make_tables.CAMVID['student alone']
    (logs / f'{name}.json').write_text('\n'.join(
        json.dumps(d) for d in (dict(loss=1.0, lr=0.1, iter=1, step=1),
                                dict(mIoU=1.0, mBIoU=2.0, step=1),
                                dict(mIoU=12.345, mBIoU=5.0, step=2))))
    table = make_tables.fill(text)
    assert 'old' not in table
    row, = (r for r in table.splitlines() if r.startswith('| student alone'))
    assert '12.3' in row and '1.00' not in row
    row, = (r for r in table.splitlines() if r.startswith('| teacher'))
    assert row.count('not run') == len(make_tables.METRICS)


def test_an_empty_table_is_filled_without_touching_the_next(monkeypatch):
    sys.path.insert(0, str(ROOT / 'tools'))
    import make_tables
    monkeypatch.setattr(make_tables, 'TABLES',
                        dict(a=lambda: ['A'], b=lambda: ['B']))
    text = ('<!-- table: a -->\n<!-- end -->\nbetween\n'
            '<!-- table: b -->\nold\nrows\n<!-- end -->\nafter\n')
    assert make_tables.fill(text) == (
        '<!-- table: a -->\nA\n<!-- end -->\nbetween\n'
        '<!-- table: b -->\nB\n<!-- end -->\nafter\n')
