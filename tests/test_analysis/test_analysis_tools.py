"""The tools that look at predictions, on untrained models and drawn maps."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from mmbckd.analysis.class_scores import ClassScores
from mmbckd.analysis.runs import read_run
from tests.runs import CLASSES, config, write_images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import analysis_tools.check_connectivity
    import analysis_tools.error_by_distance
    import analysis_tools.per_class

    return analysis_tools


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> Path:
    """A folder with a.py and b.py, and a.pth and b.pth of random weights."""
    root = tmp_path_factory.mktemp('models')
    register_all_modules(init_default_scope=False)
    write_images(root)
    for seed, name in enumerate('ab'):
        cfg = config(
            root,
            distill=False,
            val_evaluator=[
                dict(type='IoUMetric'),
                dict(type='BoundaryIoUMetric'),
                dict(type='ConnectivityMetric'),
            ],
        )
        # So that it predicts all classes without having learned to.
        cfg.model.decode_head.init_cfg = dict(
            type='Normal', std=2.0, override=dict(name='conv_seg')
        )
        cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, dict()
        cfg.test_evaluator = cfg.val_evaluator
        cfg.dump(root / f'{name}.py')
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope('mmseg'):
            model = MODELS.build(cfg.model)
            model.init_weights()
        torch.save(model.state_dict(), root / f'{name}.pth')
    return root


def run(tool, monkeypatch, *arguments) -> None:
    argv = [tool.__name__, *map(str, arguments), '--device', 'cpu']
    monkeypatch.setattr(sys, 'argv', argv)
    tool.main()


def evaluated(models, name, tmp_path) -> dict:
    """The metrics by mmengine's own loop."""
    cfg = read_run(str(models / f'{name}.py'), name).config
    cfg.load_from, cfg.work_dir = str(models / f'{name}.pth'), str(tmp_path)
    cfg.experiment_name = f'{tmp_path.name}_{name}'
    return Runner.from_cfg(cfg).test()


def test_drawn_fragments_are_seen_and_gone_without_them(tools):
    truth = np.zeros((40, 60), int)
    truth[5:30, 5:25] = 1
    prediction = truth.copy()
    for y, x in ((2, 40), (20, 50), (35, 30)):  # of 4 pixels each
        prediction[y : y + 2, x : x + 2] = 1
    prediction[10:12, 10:12] = 0  # and a hole
    variants = tools.check_connectivity.variants(prediction, [5], [5])
    found = []
    for labels in variants.values():
        scores = ClassScores(2)
        scores.add(labels, truth)
        found.append({k: v[1] for k, v in scores.per_class().items()})
    as_it_is, filtered, removed = found
    assert as_it_is['b0_err'] == 3 and as_it_is['b1_err'] == 1
    assert as_it_is['stray_fragments'] == 75
    assert as_it_is['mIoU'] == pytest.approx(100 * 496 / 512)
    assert removed['b0_err'] == removed['b1_err'] == 0
    assert removed['stray_fragments'] == 0 and removed['mIoU'] == 100
    # The majority filter rounds the corners of the region as well.
    assert filtered['b0_err'] == filtered['stray_fragments'] == 0
    assert as_it_is['mIoU'] < filtered['mIoU'] < 100


def test_connectivity_is_that_of_the_metrics(
    tools, models, monkeypatch, tmp_path
):
    """Of two runs, the second with a checkpoint that is named."""
    out = tmp_path / 'new' / 'connectivity.json'
    run(
        tools.check_connectivity,
        monkeypatch,
        models / 'a.py',
        models / 'a.py',
        '--names',
        'A',
        'B',
        '--checkpoints',
        models / 'a.pth',
        models / 'b.pth',
        '--min-areas',
        '3',
        '9',
        '--out',
        out,
    )
    found = json.loads(out.read_text())
    assert [(row['name'], row['variant']) for row in found['rows']] == [
        (name, variant)
        for name in 'AB'
        for variant in (
            '',
            'majority filter, 5 x 5',
            'without regions below 3 px',
            'without regions below 9 px',
        )
    ]
    for row, name in ((found['rows'][0], 'a'), (found['rows'][4], 'b')):
        expected = evaluated(models, name, tmp_path)
        for key, value in row['metrics'].items():
            assert value == pytest.approx(expected[key], abs=0.006)
    (line,) = (
        x for x in tools.check_connectivity.table(found) if '| B  ' in x
    )
    assert f'{found["rows"][4]["metrics"]["mIoU"]:.2f}' in line


def test_rates_by_distance_make_up_the_error_rate(
    tools, models, monkeypatch, tmp_path
):
    out = tmp_path / 'error_by_distance.json'
    paths = models / 'a.py', models / 'b.py'
    run(tools.error_by_distance, monkeypatch, *paths, '--out', out)
    found = json.loads(out.read_text())
    assert found['images'] == 4 and sum(found['pixels']) == 4 * 32 * 32
    for row, name in zip(found['runs'], 'ab'):
        right = 100 - 100 * sum(row['errors']) / sum(found['pixels'])
        expected = evaluated(models, name, tmp_path)['aAcc']
        assert right == pytest.approx(expected, abs=0.01)
    assert '<svg' in out.with_suffix('.svg').read_text()
    lines = tools.error_by_distance.table(found)
    assert '0–1 px' in lines[0] and '> 32 px' in lines[0]


def write_table(file, models, seeds, not_run=()):
    """A table of the student a, and of rows that have not been run."""
    rows = {f'{name}, not run': str(models / f'{name}.py') for name in not_run}
    pair = dict(title='toy', student=str(models / 'a.py'), rows=rows)
    table = dict(
        title='Toy',
        metrics=['mIoU'],
        input_size=[32, 32],
        seeds=list(range(seeds)),
        pairs=[pair],
    )
    file.write_text(yaml.safe_dump(table))


def test_classes_are_compared_over_the_seeds_of_a_table(
    tools, models, monkeypatch, tmp_path, capsys
):
    write_table(tmp_path / 'toy.yml', models, 2, ['b'])
    for seed, name in (('', 'a'), ('_seed-1', 'b')):
        place = tmp_path / 'work' / f'a{seed}' / 'iter_4.pth'
        place.parent.mkdir(parents=True)
        place.write_bytes((models / f'{name}.pth').read_bytes())
    out = tmp_path / 'per_class.json'
    arguments = tmp_path / 'toy.yml', '--work-dir', tmp_path / 'work'
    run(tools.per_class, monkeypatch, *arguments, '--out', out)
    found = json.loads(out.read_text())
    student, missing = found['pairs'][0]['rows']
    assert list(student['runs']) == ['a', 'a_seed-1']
    assert missing['runs'] == {}
    for scores, name in zip(student['runs'].values(), 'ab'):
        expected = evaluated(models, name, tmp_path)
        assert scores['classes'] == list(CLASSES)
        for metric, values in scores['scores'].items():
            mean = np.nanmean(np.array(values, float))
            assert mean == pytest.approx(expected[metric], abs=0.01)
    # What was kept is not evaluated again.
    before = out.read_text()
    monkeypatch.setattr(tools.per_class, 'evaluate', lambda *_: None)
    run(tools.per_class, monkeypatch, *arguments, '--out', out)
    assert out.read_text() == before


def test_run_that_is_left_out_is_named_and_what_came_before_it_is_kept(
    tools, models, tmp_path, monkeypatch, capsys
):
    write_table(tmp_path / 'toy.yml', models, 3)
    for name in ('a', 'a_seed-2'):
        (tmp_path / 'work' / name).mkdir(parents=True)
    checkpoint = (models / 'a.pth').read_bytes()
    # Whole, absent, and cut off.
    (tmp_path / 'work' / 'a' / 'iter_4.pth').write_bytes(checkpoint)
    (tmp_path / 'work' / 'a_seed-2' / 'iter_4.pth').write_bytes(checkpoint[:9])
    out = tmp_path / 'per_class.json'
    arguments = tmp_path / 'toy.yml', '--work-dir', tmp_path / 'work'
    with pytest.raises(SystemExit, match='per_class.py: '):
        run(tools.per_class, monkeypatch, *arguments, '--out', out)
    assert 'a_seed-1/iter_4.pth' in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert list(found['pairs'][0]['rows'][0]['runs']) == ['a']
    assert 'student, 1 of 3 seeds' in tools.per_class.table(found)[0]


def test_difference_of_a_class_is_that_of_the_means(tools):
    def scores(*values):
        return dict(classes=['x', 'y'], scores=dict(mIoU=values, mBIoU=values))

    found = dict(
        pairs=[
            dict(
                title='toy',
                student='student',
                rows=[
                    dict(
                        title='student',
                        runs=dict(a=scores(40.0, 1.0), b=scores(42.0, None)),
                    ),
                    dict(title='BCKD', runs=dict(c=scores(43.5, 2.0))),
                    dict(title='CWD', runs={}),
                ],
            )
        ]
    )
    heads, _, x, y, *rest = tools.per_class.table(found)
    cells = [[c.strip() for c in r.split('|')[1:-1]] for r in (heads, x, y)]
    assert cells == [
        ['IoU ↑', 'student', 'BCKD'],
        ['x', '41.00', '43.50 (+2.50)'],
        ['y', '—', '2.00 (—)'],
    ]
    assert 'Boundary IoU ↑' in rest[1]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['a.py', 'b.py', '--names', 'A', 'A'], 'Expected 2 names'),
        (['a.py', '--checkpoints', 'a.pth', 'b.pth'], '1 checkpoints'),
        (['a.py', '--checkpoints', 'no.pth'], 'no.pth does not exist'),
        (['none.py'], 'none.py, which does not exist'),
        (['a.py', '--sizes', '4'], 'Expected an odd size'),
    ],
)
def test_wrong_arguments_are_named(
    tools, models, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(models)
    with pytest.raises(SystemExit):
        run(tools.check_connectivity, monkeypatch, *arguments)
    assert message in capsys.readouterr().err
