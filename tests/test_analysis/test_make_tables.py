"""No figure of README.md is typed: it is what the logs say."""

import json
import shutil
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STUDENT = 'fpn_r18-w32_1xb8-1k_camvid-120x160'


@pytest.fixture
def tool(monkeypatch):
    """The tool's module."""
    for folder in ('tools', '.dev_scripts'):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    import make_tables

    return make_tables


def run(tool, *options):
    """What the command ends with: None, or a message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['make_tables.py', *options])
        try:
            return tool.main()
        except SystemExit as exit_:
            return exit_.code


def test_readme_holds_what_the_logs_say(tool):
    assert run(tool, '--check') is None


@pytest.fixture
def make_tables(tool, tmp_path, monkeypatch):
    """The tool's module, in a copy of the repository with one log only."""
    for name in ('configs', 'tables'):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    logs = tmp_path / 'results' / 'camvid'
    logs.mkdir(parents=True)
    (logs / f'{STUDENT}.json').write_text(
        '\n'.join(
            json.dumps(d)
            for d in (
                dict(loss=1.0, lr=0.1, iter=1, step=1),
                dict(mIoU=1.0, mBIoU=2.0, step=1),
                dict(loss=1.0, lr=0.1, iter=2, step=2),
                dict(mIoU=12.345, mBIoU=5.0, step=2),
            )
        )
    )
    return tool


def test_a_changed_log_changes_the_table(make_tables):
    text = '<!-- table: tables/camvid.yml -->\nold\n<!-- end -->\n'
    table = make_tables.fill(text)
    assert 'old' not in table
    (row,) = (r for r in table.splitlines() if r.startswith('| student '))
    assert '12.3' in row and '1.00' not in row and '1 of 3' in row
    (row,) = (r for r in table.splitlines() if r.startswith('| teacher'))
    assert {cell.strip() for cell in row.split('|')[2:9]} == {'not run'}


def test_page_shows_the_rows_that_it_names(make_tables):
    marker = '<!-- table: tables/camvid.yml (CWD, BCKD + CWD) -->'
    table = make_tables.fill(f'{marker}\nold\n<!-- end -->\n')
    assert table.startswith(f'{marker}\n|')
    rows = [r for r in table.splitlines() if r.startswith('|')][2:]
    assert [row.split('|')[1].strip() for row in rows] == [
        'teacher',
        'student',
        'CWD',
        'BCKD + CWD',
    ]
    with pytest.raises(SystemExit, match=r"but got \['none'\]"):
        make_tables.fill(marker.replace('CWD,', 'none,') + '\n<!-- end -->\n')


def test_metafile_has_results_of_what_was_run_only(make_tables):
    file = ROOT / 'configs/mmseg/fpn_r50_fpn_r18/metafile.yml'
    filled = make_tables.fill_metafile(
        file.read_text(), make_tables.results(make_tables.ROOT)
    )
    found = {
        model['Name']: model['Results']
        for model in yaml.safe_load(filled)['Models']
        if 'Results' in model
    }
    assert found == {
        STUDENT: [
            dict(
                Dataset='CamVid',
                Task='Semantic Segmentation',
                Metrics=dict(mIoU=12.35, mBIoU=5.0),
            )
        ]
    }
    assert make_tables.fill_metafile(filled, {}) == make_tables.fill_metafile(
        file.read_text(), {}
    )


def test_ap_in_a_metafile_is_in_percent_with_the_digits_of_its_log(
    make_tables,
):
    name = 'mask-rcnn_r18_fpn_1xb8-1k_camvid-160x160'
    folder = make_tables.ROOT / 'results' / 'camvid-instance'
    folder.mkdir()
    scores = {
        f'coco/{k}_mAP': v for k, v in (('bbox', 0.122), ('segm', 0.1296))
    }
    (folder / f'{name}.json').write_text(
        '\n'.join(
            json.dumps(d)
            for d in (
                dict(loss=1.0, lr=0.1, iter=1000, step=1000),
                dict(scores, step=1000),
            )
        )
    )
    box, mask = make_tables.results(make_tables.ROOT)[name]
    assert box['Metrics'] == {'box AP': 12.2}
    assert mask['Metrics'] == {'mask AP': 13.0}


def test_an_overfit_is_no_result(make_tables):
    name = 'coco-tiny-overfit'
    shutil.copytree(
        ROOT / 'results' / name, make_tables.ROOT / 'results' / name
    )
    assert set(make_tables.results(make_tables.ROOT)) == {STUDENT}


def test_levels_are_medians_of_the_runs_that_had_them(make_tables):
    runs = [
        (dict(a='1', b='x'), dict(m=1.0)),
        (dict(a='2', b='x'), dict(m=5.0)),
        (dict(a='1', b='y'), dict(m=3.0)),
        (dict(a='2', b='y'), {}),
    ]
    assert make_tables.sweep_tables.level_medians(runs) == {
        ('a', '1'): dict(m=2.0),
        ('a', '2'): dict(m=5.0),
        ('b', 'x'): dict(m=3.0),
        ('b', 'y'): dict(m=3.0),
    }


@pytest.fixture
def levels_of_runs(make_tables):
    def levels(name):
        table = make_tables.read_table(ROOT / f'tables/{name}.yml')
        sweep_tables = make_tables.sweep_tables
        return [
            sweep_tables.levels(row, sweep_tables.SWEEPS[name])
            for row in table.pairs[0].rows
            if row.options
        ]

    return levels


def meet_equally_often(runs, one, other):
    meetings = Counter((run[one], run[other]) for run in runs)
    numbers = [len({run[factor] for run in runs}) for factor in (one, other)]
    return (
        len(meetings) == numbers[0] * numbers[1]
        and len(set(meetings.values())) == 1
    )


def test_all_levels_of_a_sweep_meet_equally_often(levels_of_runs):
    """An orthogonal array: else the levels would not compare."""
    runs = levels_of_runs('camvid-sweep')
    assert len(runs) == 18 and len(runs[0]) == 8
    for one, other in combinations(runs[0], 2):
        assert meet_equally_often(runs, one, other), (one, other)


def test_half_a_sweep_has_every_level_equally_often(levels_of_runs):
    """Its first factor meets all others so; these meet each other unevenly."""
    runs = levels_of_runs('camvid-instance-sweep')
    assert len(runs) == 9 and len(runs[0]) == 7
    first, *others = runs[0]
    for other in others:
        assert meet_equally_often(runs, first, other), other


def test_an_empty_table_is_filled_without_touching_the_next(
    make_tables, monkeypatch
):
    monkeypatch.setattr(
        make_tables, 'TABLES', dict(a=lambda root: ['A'], b=lambda root: ['B'])
    )
    text = (
        '<!-- table: a -->\n<!-- end -->\nbetween\n'
        '<!-- table: b -->\nold\nrows\n<!-- end -->\nafter\n'
    )
    assert make_tables.fill(text) == (
        '<!-- table: a -->\nA\n<!-- end -->\nbetween\n'
        '<!-- table: b -->\nB\n<!-- end -->\nafter\n'
    )


def state(folder):
    """All files, what is in them, and when they were written."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_check_names_what_is_outdated_and_writes_nothing(
    tool, tmp_path, monkeypatch
):
    """In a copy whose first page is up to date, and which has no logs."""
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    metafile = Path('configs/mmseg/fpn_r50_fpn_r18/metafile.yml')
    for name in (
        'benchmarks',
        metafile.parent,
        'configs/mmdet',
        'configs/quickstart',
        'docs/en/user_guides',
        'results',
    ):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / metafile, tmp_path / metafile)
    pages = [
        'README.md',
        'benchmarks/README.md',
        'configs/quickstart/README.md',
        'configs/mmseg/README.md',
        'configs/mmdet/README.md',
        'docs/en/user_guides/deploy.md',
        'docs/en/step_costs.md',
        'results/README.md',
    ]
    for page in pages:
        row = 'old' if page == 'benchmarks/README.md' else 'not run'
        (tmp_path / page).write_text(
            f'<!-- table: gradients -->\n{row}\n<!-- end -->\n'
        )
    before = state(tmp_path)

    said = run(tool, '--check')
    assert state(tmp_path) == before
    assert f'in benchmarks/README.md, {metafile}, but' in said

    assert run(tool) is None
    after = state(tmp_path)
    assert {path for path in after if after[path] != before.get(path)} == {
        Path('benchmarks/README.md'),
        metafile,
    }
    assert run(tool, '--check') is None
    assert state(tmp_path) == after


def test_cost_of_every_config_stands_with_its_data_set_and_pair(
    make_tables, tmp_path
):
    shutil.copy(ROOT / 'model-index.yml', tmp_path)
    measured, failed = f'bckd_fpn_r50_{STUDENT}', f'cwd_fpn_r50_{STUDENT}'
    part = dict(parameters=3e6, flops=2e9)
    cost = dict(
        config=measured,
        size=[120, 160],
        measured_batch=2,
        gpus=1,
        batch=8,
        iterations=1000,
        student=part,
        teacher=part,
        losses=dict(loss_bd=dict(flops=1e9, activations=2**28)),
        flops=dict(step=1e10, backward_distillation=1e9),
        activations=2**30,
        tflops=10.0,
        gpu_hours=0.125,
    )
    rows = [cost, dict(config=failed, error='No such layer.')]
    (tmp_path / 'configs/step_costs.json').write_text(
        json.dumps(dict(rows=rows))
    )
    lines = make_tables.step_costs(make_tables.ROOT)
    lines = lines[lines.index('## CamVid') : lines.index('## COCO')]
    cells = {
        row[1]: row[2:-1]
        for row in (
            [cell.strip() for cell in line.split('|')]
            for line in lines
            if line.startswith('|')
        )
    }
    names = list(cells)
    # After the row that names their folder.
    assert '**fpn_r50_fpn_r18**' in names[: names.index(measured)]
    assert ' '.join(cells[measured]) == (
        '120x160 1x8 1000 3.0 2.0 3.0 2.0 10.0 20.0% 1.00 25% 0.125'
    )
    assert cells[STUDENT] == cells[failed] == ['not run', *[''] * 11]
    assert f'- {failed}: No such layer.' in lines
