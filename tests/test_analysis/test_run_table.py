"""The table runner: what it reads, what it runs, what it makes of the logs."""

import argparse
import copy
import csv
import io
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import submitit
import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from scipy.stats import ttest_rel

from mmbckd.analysis.cost import model_cost
from mmbckd.analysis.runs import Log, copy_log, read_log, results_log
from mmbckd.analysis.step_cost import cost_key
from mmbckd.analysis.tables import (
    Row,
    plan,
    read_table,
    summarize,
    to_csv,
    to_markdown,
)
from mmbckd.analysis.tables.execution import Device
from mmbckd.analysis.tables.jobs import derive_config
from mmbckd.analysis.tables.summary import gap_closed, paired_difference
from mmbckd.stack import distribution_of
from tests.segmentors import query_segmentor
from tests.toy_table import FINISHED, leave_test, leave_training, write

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
TABLES = sorted((ROOT / 'tables').glob('*.yml'))
TOY = ROOT / 'tests/test_compat/toy_distill.py'


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """The tool's module; it runs in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.chdir(tmp_path)
    import run_table

    return run_table


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(metrics='mIoU'), '`metrics` of the table to be a list'),
        (dict(rows=[]), "keys .* in the table, but got 'rows'"),
        (dict(input_size=[64]), r'`input_size` as \[height, width\]'),
        (dict(seeds=[0, 0]), '`seeds` as a list of different numbers'),
        (dict(pairs=[dict(title='x')]), '`student` in a pair'),
        (
            dict(pairs=[dict(title='x', student=3)]),
            "row 'student' with the keys",
        ),
        (
            dict(
                pairs=[
                    dict(
                        title='x',
                        student='toy.py',
                        rows=dict(A=dict(seeds=[1])),
                    )
                ]
            ),
            "`config` in the row 'A'",
        ),
        (
            dict(
                pairs=[
                    dict(
                        title='x',
                        student=dict(config='toy.py', options=dict(a=1)),
                    )
                ]
            ),
            "`options` of the row 'student' and a `variant`",
        ),
    ],
)
def test_wrong_definition_is_named_with_its_file(toy, changes, message):
    with pytest.raises(ValueError, match=f'(?s){message}.*toy.yml'):
        read_table(write(toy, **changes))


@pytest.mark.parametrize('name', ['no.py', 'mmseg::no.py', 'nopackage::a.py'])
def test_missing_config_is_named(toy, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_table(write(toy, pairs=[dict(title='x', student=name)]))


def test_every_table_reads_and_its_teachers_are_those_of_its_configs(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert {path.stem for path in TABLES} >= {
        'voc12aug',
        'cityscapes',
        'ade20k',
        'coco-stuff10k',
        'camvid',
        'ablation',
        'coco-detection',
        'coco-instance',
    }
    for path in TABLES:
        jobs = plan(read_table(path), 'work_dirs')
        # What others need comes first, and is made by a job of the table.
        made = [job.last_checkpoint for job in jobs]
        for place, job in enumerate(jobs):
            if job.teacher is not None:
                assert job.teacher in made[:place]
                assert str(job.teacher) == job.config.model.teacher_ckpt


def test_every_config_of_the_zoo_is_in_a_table():
    named = {
        Path(row.config)
        for path in TABLES
        for pair in read_table(path).pairs
        for row in pair.rows
    }
    zoo = {
        path
        for folder in ('mmseg', 'mmdet')
        for path in (ROOT / 'configs' / folder).rglob('*.py')
    }
    assert zoo <= named


@pytest.mark.parametrize(
    'config, metrics',
    [
        (
            'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            ['IoUMetric', 'BoundaryIoUMetric', 'ConnectivityMetric'],
        ),
        (
            'mmrazor::distill/mmseg/cwd/cwd_logits_pspnet_r101-d8_pspnet_r18-d8_'
            '4xb2-80k_cityscapes-512x1024.py',
            ['IoUMetric', 'BoundaryIoUMetric', 'ConnectivityMetric'],
        ),
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py',
            ['CocoBoundaryMetric'],
        ),
        ('mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py', ['CocoMetric']),
        (
            'mmrazor::distill/mmdet/pkd/pkd_fpn_faster-rcnn_r101_faster-rcnn_r50_'
            '2x_coco.py',
            ['CocoMetric'],
        ),
    ],
)
def test_upstreams_config_reports_our_metrics(tmp_path, config, metrics):
    file = tmp_path / 'derived.py'
    file.write_text(derive_config(config))
    cfg = Config.fromfile(file)
    assert cfg.val_cfg.type == 'ValLoop'
    assert {'DataCheckHook', 'IterationSeedHook', 'StudentCheckpointHook'} <= {
        hook['type'] for hook in cfg.custom_hooks
    }
    for found in (cfg.val_evaluator, cfg.test_evaluator):
        found = found if isinstance(found, list) else [found]
        assert [metric['type'] for metric in found] == metrics


def test_options_of_a_row_change_the_config_that_runs(toy):
    """The command says the same as the config by which work is estimated."""
    table = read_table(
        write(
            toy,
            pairs=[
                dict(
                    title='x',
                    student='toy.py',
                    rows=dict(
                        A=dict(
                            config='toy.py',
                            variant='short',
                            options={
                                'train_cfg.max_iters': 2,
                                'model.backbone.strides': [1, 1, 2, 2],
                                'model.align_corners': True,
                            },
                        )
                    ),
                )
            ],
        )
    )
    plain, changed = plan(table, toy.parent)
    assert (plain.limit, changed.limit) == (4, 2)
    assert plain.work_dir.name == 'toy'
    assert changed.work_dir.name == 'toy_short'
    options = changed.command()[changed.command().index('--cfg-options') + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    run = copy.deepcopy(plain.config)
    run.merge_from_dict(
        parser.parse_args(['--cfg-options', *options]).cfg_options
    )
    assert run.to_dict() == changed.config.to_dict()
    titles = [row['title'] for row in summarize(table, no_log)['rows']]
    assert titles == ['student', 'A']


def no_log(row: Row, seed: int) -> None:
    """What is known of a run that was not made."""


def test_runs_of_one_name_that_differ_are_refused(toy):
    folder = toy.parent
    (folder / 'other').mkdir()
    shutil.copy(folder / 'toy.py', folder / 'other/toy.py')
    lr = {'optim_wrapper.optimizer.lr': 1.0}
    changed = dict(config='toy.py', variant='lr')
    for rows in (
        dict(A='other/toy.py'),
        dict(A=dict(config='toy.py', checkpoint='a.pth')),
        dict(
            A=dict(changed, options=lr),
            B=dict(changed, options={'optim_wrapper.optimizer.lr': 2.0}),
        ),
    ):
        pair = dict(title='x', student='toy.py', rows=rows)
        with pytest.raises(ValueError, match='two runs .* Give one a `varia'):
            plan(read_table(write(toy, pairs=[pair])), 'work_dirs')
    rows = dict(A=dict(changed, options=lr), B=dict(changed, options=lr))
    pair = dict(title='x', student='toy.py', rows=rows)
    table = read_table(write(toy, pairs=[pair], seeds=[0]))
    assert len(plan(table, 'work_dirs')) == 2


# ------------------------------------------------------------------- teachers


def table_with_rows(toy, teacher='teacher.py', **rows):
    """A table of a pair, with the rows' configs written beside it.

    A row is what is changed in the distillation of the toy, or the
    definition of one.
    """
    folder = toy.parent
    plain = Config.fromfile(folder / 'toy.py')
    plain.dump(folder / 'teacher.py')
    plain.train_cfg.max_iters = 8
    plain.dump(folder / 'long.py')
    for name, changes in rows.items():
        if 'config' not in changes:
            cfg = Config.fromfile(TOY)
            cfg.model.update(changes)
            cfg.dump(folder / f'{name}.py')
    rows = {
        name: changes if 'config' in changes else f'{name}.py'
        for name, changes in rows.items()
    }
    pair = dict(title='x', teacher=teacher, student='toy.py', rows=rows)
    return read_table(write(toy, pairs=[pair]))


def test_plain_row_is_a_student_that_learns_from_nobody(
    toy, tool, monkeypatch, capsys
):
    """At another budget; the row beside it learns from the teacher."""
    table = table_with_rows(
        toy,
        longer=dict(config='long.py'),
        KD=dict(teacher='teacher.py', teacher_ckpt='work_dirs/x.pth'),
    )
    jobs = {job.work_dir.name: job for job in plan(table, 'work_dirs')}
    made = Path('work_dirs/teacher/iter_4.pth')
    assert {name: job.teacher for name, job in jobs.items()} == {
        'teacher': None,
        'toy': None,
        'long': None,
        'KD': made,
    }
    command = ' '.join(jobs['long'].command())
    assert f'mim train {distribution_of("mmseg")}' in command
    assert 'teacher_ckpt' not in command
    assert f'model.teacher_ckpt={made}' in jobs['KD'].command()

    argv = ['run_table.py', str(toy), '--cpu', '--dry-run']
    monkeypatch.setattr(sys, 'argv', argv)
    tool.main()
    assert '8 iterations x batch 2 = 16 images' in capsys.readouterr().out


def test_plain_row_alone_beside_a_teacher_is_planned(toy):
    jobs = plan(table_with_rows(toy, distilled=dict(config='long.py')), 'w')
    assert [job.work_dir.name for job in jobs] == ['teacher', 'toy', 'long']


def test_costs_of_a_plain_row_are_its_own(toy, tool, monkeypatch):
    """Of a distillation they are those of its student."""
    table = table_with_rows(
        toy,
        small=dict(
            config='long.py',
            options={'model.decode_head.channels': 2},
            variant='small',
        ),
        KD=dict(teacher='teacher.py'),
    )
    monkeypatch.setattr(sys, 'argv', ['run_table.py', str(toy), '--cpu'])
    found = tool.costs_of(table, lambda row, seed: True, tool.parse_args())
    summary = summarize(table, lambda row, seed: None, **found)
    costs = {row['title']: row['parameters'] for row in summary['rows']}
    assert costs['small'] < costs['student'] == costs['KD']


@pytest.mark.parametrize(
    'changes',
    [
        dict(teacher='teacher.py', teacher_ckpt=None),
        dict(
            teacher='teacher.py', teacher_ckpt='work_dirs/teacher/iter_4.pth'
        ),
        dict(teacher=dict(cfg_path='teacher.py'), teacher_ckpt=None),
        dict(),  # of MMRazor: the teacher is its config, and has no checkpoint
        dict(teacher_ckpt='work_dirs/teacher/iter_4.pth'),
    ],
)
def test_teacher_is_trained_and_handed_over(toy, changes):
    teacher, student, job = plan(table_with_rows(toy, KD=changes), 'work_dirs')
    assert teacher.command()[:2] == ['mim', 'train']
    assert job.teacher == teacher.last_checkpoint
    assert f'model.teacher_ckpt={job.teacher}' in job.command()


@pytest.mark.parametrize(
    'teacher, changes',
    [
        ('teacher.py', dict(teacher_ckpt='https://x.org/a.pth')),
        (dict(config='teacher.py', checkpoint='https://x.org/a.pth'), dict()),
    ],
)
def test_published_teacher_is_tested_and_handed_over(toy, teacher, changes):
    jobs = plan(table_with_rows(toy, teacher, KD=changes), 'work_dirs')
    jobs = {job.work_dir.name: job for job in jobs}
    command = jobs['teacher'].command()
    assert command[1] == 'test' and 'https://x.org/a.pth' in command
    job = jobs['KD']
    assert job.teacher is None
    assert job.config.model.teacher_ckpt == 'https://x.org/a.pth'
    assert ('model.teacher_ckpt=https://x.org/a.pth' in job.command()) == (
        'teacher_ckpt' not in changes
    )


def test_checkpoint_in_the_options_of_a_row_counts(toy):
    cfg = Config.fromfile(TOY)
    cfg.dump(toy.parent / 'kd.py')
    jobs = plan(
        table_with_rows(
            toy,
            KD=dict(
                config='kd.py',
                options={'model.teacher_ckpt': 'a.pth'},
                variant='a',
            ),
        ),
        'work_dirs',
    )
    jobs = {job.work_dir.name: job for job in jobs}
    assert 'a.pth' in jobs['teacher'].command()
    assert jobs['kd_a'].teacher is None


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            dict(teacher='other.py'),
            'Expected teacher as teacher of KD.*other.py',
        ),
        (dict(teacher=None), '`teacher` .* config of KD.*None'),
        (dict(teacher=3), '`teacher` .* config of KD.*3'),
        (
            dict(teacher=dict(cfg_path='teacher.py', pretrained=True)),
            '`teacher_ckpt` .* config of KD.*pretrained',
        ),
        (
            dict(
                teacher=dict(
                    type='EncoderDecoder',
                    _delete_=True,
                    init_cfg=dict(type='Pretrained', checkpoint='a.pth'),
                )
            ),
            '`teacher_ckpt` .* config of KD.*pretrained',
        ),
    ],
)
def test_row_without_a_teacher_to_use_is_named(
    toy, tool, monkeypatch, changes, message
):
    table_with_rows(toy, KD=changes)
    monkeypatch.setattr(
        sys, 'argv', ['run_table.py', str(toy), '--cpu', '--dry-run']
    )
    with pytest.raises(SystemExit, match=f'(?s)run_table.py: .*{message}'):
        tool.main()


@pytest.mark.parametrize(
    'change',
    [
        lambda cfg: cfg.pop('model'),
        lambda cfg: cfg.update(train_cfg=None),
        lambda cfg: cfg.update(default_scope='mmpose'),
    ],
)
def test_row_that_cannot_be_trained_is_named(toy, change):
    file = toy.parent / 'broken.py'
    cfg = Config.fromfile(toy.parent / 'toy.py')
    change(cfg)
    cfg.dump(file)
    table = table_with_rows(toy, bad=dict(config='broken.py'))
    with pytest.raises(ValueError, match="row 'bad'.*broken.py"):
        plan(table, 'work_dirs')


# -------------------------------------------------------------------- figures


def cells_of(lines: list) -> list:
    """The cells of Markdown tables, without the rules below the headings."""
    rows = [line.strip('|').split('|') for line in lines if '|' in line]
    return [
        [cell.strip() for cell in row] for row in rows if '---' not in row[0]
    ]


def table_of(path: Path, values: dict, seeds: list, **changes):
    """A table's summary, of values by (title, seed)."""
    table = read_table(
        write(
            path,
            seeds=seeds,
            pairs=[
                dict(
                    title='toy',
                    teacher=dict(config='toy.py', seeds=[0]),
                    student='toy.py',
                    rows={'BCKD': 'toy.py', 'CWD': 'toy.py'},
                )
            ],
            **changes,
        )
    )
    return summarize(
        table,
        lambda row, seed: (
            Log([], [dict(values[row.title, seed], iter=4)])
            if (row.title, seed) in values
            else None
        ),
    )


def test_means_deviations_gains_and_shares_are_right(toy):
    summary = table_of(
        toy,
        {
            ('teacher', 0): dict(mIoU=50.0, b0_err=2.0),
            ('student', 0): dict(mIoU=39.0, b0_err=4.0),
            ('student', 1): dict(mIoU=41.0, b0_err=4.0),
            ('student', 2): dict(mIoU=40.0, b0_err=4.0),
            ('BCKD', 0): dict(mIoU=42.0, b0_err=3.0),
            ('BCKD', 1): dict(mIoU=43.0, b0_err=4.0),
        },
        [0, 1, 2],
    )
    rows = {row['title']: row for row in summary['rows']}
    assert rows['student']['metrics']['mIoU']['mean'] == 40.0
    assert rows['student']['metrics']['mIoU']['std'] == pytest.approx(1.0)
    assert 'gain' not in rows['student']['metrics']['mIoU']
    cell = rows['BCKD']['metrics']['mIoU']
    assert cell['mean'] == 42.5
    assert cell['std'] == pytest.approx(0.5**0.5)
    assert cell['gain'] == 2.5 and cell['gap_closed'] == 0.25
    fewer = rows['BCKD']['metrics']['b0_err']  # half of 4 -> 2
    assert fewer['gain'] == -0.5 and fewer['gap_closed'] == 0.25
    assert (rows['BCKD']['seeds'], rows['BCKD']['seeds_asked']) == (
        [0, 1],
        [0, 1, 2],
    )

    lines = cells_of(to_markdown(summary))
    assert lines[0] == ['', 'mIoU ↑', 'b0_err ↓', 'seeds']
    assert ['teacher', '50.00', '2.00', '1'] in lines
    assert ['student', '40.00 ± 1.00', '4.00 ± 0.00', '3'] in lines
    assert ['BCKD', '42.50 ± 0.71', '3.50 ± 0.71', '2 of 3'] in lines
    assert ['CWD', 'not run', 'not run', '0 of 3'] in lines
    assert ['BCKD', '+2.50 (25%)', '-0.50 (25%)'] in lines

    found = list(csv.DictReader(io.StringIO(to_csv(summary))))
    assert float(found[2]['mIoU gain']) == 2.5
    assert found[3]['mIoU mean'] == '' and found[3]['seeds'] == '0'
    json.dumps(summary, allow_nan=False)


def test_gain_is_over_the_seeds_that_row_and_student_have(toy):
    summary = table_of(
        toy,
        {
            ('teacher', 0): dict(mIoU=49.0),
            ('student', 0): dict(mIoU=39.0),
            ('student', 1): dict(mIoU=45.0),
            ('BCKD', 0): dict(mIoU=41.0),
            ('BCKD', 2): dict(mIoU=70.0),
            ('CWD', 2): dict(mIoU=70.0),
        },
        [0, 1, 2],
    )
    rows = {row['title']: row['metrics']['mIoU'] for row in summary['rows']}
    assert rows['BCKD']['mean'] == 55.5
    assert rows['BCKD']['gain'] == 2.0 and rows['BCKD']['gap_closed'] == 0.2
    assert rows['CWD']['gain'] is rows['CWD']['gap_closed'] is None
    json.dumps(summary, allow_nan=False)


def test_without_teacher_or_gap_there_is_no_share(toy):
    assert gap_closed(41.0, 40.0, 40.0) is None
    assert gap_closed(41.0, 40.0, None) is None
    assert gap_closed(41.0, 40.0, 44.0, noise=4.0) is None
    assert gap_closed(41.0, 40.0, 44.0, noise=3.9) == 0.25
    lines = to_markdown(
        table_of(
            toy,
            {('student', 0): dict(mIoU=40.0), ('BCKD', 0): dict(mIoU=41.0)},
            [0],
        )
    )
    assert ['BCKD', '41.00', '—', '1'] in cells_of(lines)
    assert ['BCKD', '+1.00 (—)', '—'] in cells_of(lines)


def test_interval_of_a_paired_difference_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    row, rival = rng.normal(size=(2, 5))
    found = paired_difference(row, rival)
    expected = ttest_rel(row, rival).confidence_interval(0.95)
    assert found['mean'] == pytest.approx((row - rival).mean())
    assert (found['low'], found['high']) == pytest.approx(tuple(expected))
    # By hand: t of 97.5 % is 4.3027 with 2 degrees of freedom, s = 1.
    found = paired_difference([11.0, 12.0, 13.0], [10.0, 10.0, 10.0])
    assert found['low'] == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4)
    assert paired_difference([3.0], [1.0]) is None


def test_differences_are_paired_by_the_seeds_that_both_have(toy):
    summary = table_of(
        toy,
        {
            ('student', 0): dict(mIoU=39.0),
            ('student', 1): dict(mIoU=41.0),
            ('student', 2): dict(mIoU=90.0),
            ('BCKD', 1): dict(mIoU=43.1),
            ('BCKD', 0): dict(mIoU=41.0),
            ('CWD', 0): dict(mIoU=41.0),
        },
        [0, 1, 2],
        rival='CWD',
    )
    rows = {row['title']: row for row in summary['rows']}
    paired = rows['BCKD']['paired']
    assert list(paired) == ['student', 'CWD']
    cell = paired['student']['mIoU']
    assert cell['seeds'] == [0, 1] and cell['mean'] == pytest.approx(2.05)
    assert paired['CWD'] == rows['CWD']['paired']['student'] == {}
    assert 'paired' not in rows['student']
    lines = cells_of(to_markdown(summary))
    # t of 97.5 % is 12.706 with 1 degree of freedom, s / sqrt(2) = 0.05.
    assert ['BCKD − student', '**+2.05 [+1.41, +2.69]**', '—'] in lines
    # They have one seed in common.
    assert 'BCKD − CWD' not in [line[0] for line in lines]
    found = list(csv.DictReader(io.StringIO(to_csv(summary))))
    assert float(found[2]['mIoU - student low']) == cell['low']
    assert found[1]['mIoU - student low'] == ''
    json.dumps(summary, allow_nan=False)


def test_rivals_are_compared_once(toy):
    summary = table_of(toy, {}, [0], rival=['BCKD', 'CWD'])
    paired = {
        row['title']: list(row['paired'])
        for row in summary['rows']
        if 'paired' in row
    }
    first, second = (t for t in paired if t in ('BCKD', 'CWD'))
    assert paired[first] == ['student']
    assert paired[second] == ['student', first]


def test_interval_that_holds_0_is_not_marked(toy):
    values = {('student', 0): 40.0, ('student', 1): 40.0}
    values |= {('BCKD', 0): 41.0, ('BCKD', 1): 40.5}
    values = {key: dict(mIoU=value) for key, value in values.items()}
    lines = cells_of(to_markdown(table_of(toy, values, [0, 1])))
    assert ['BCKD − student', '+0.75 [-2.43, +3.93]', '—'] in lines


def test_rival_that_is_no_row_is_named(toy):
    with pytest.raises(ValueError, match="`rival` .* got 'MGD'.*toy.yml"):
        table_of(toy, {}, [0], rival=['CWD', 'MGD'])


def test_time_of_a_training_is_told_if_asked_for(toy):
    """The first records, which hold the warm-up, do not count."""
    table = read_table(write(toy, time=True))
    seconds = [9.0, 5.0, 4.0, 1.0, 2.0, 3.0]
    train = [
        dict(time=s, iter=i, step=i)
        for i, s in zip(range(10, 70, 10), seconds)
    ]
    log = Log(train, [dict(mIoU=1.0, iter=60)])
    summary = summarize(table, lambda row, seed: log)
    (row,) = summary['rows']
    assert row['iterations'] == 60 and row['seconds_per_iter'] == 2.0
    assert row['training_seconds'] == 240.0
    heads, cells = cells_of(to_markdown(summary))
    assert heads[-3:] == ['iterations', 's/iter', 'training']
    assert cells[-3:] == ['60', '2.000', '4.0 min']


def test_shipped_table_is_found_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = read_table(ROOT / 'tables/voc12aug.yml')
    for name in ('voc12aug', 'voc12aug.yml', 'tables/voc12aug.yml'):
        assert read_table(name).pairs == table.pairs
    for name in ('voc12', 'elsewhere/voc12aug.yml'):
        with pytest.raises(FileNotFoundError, match=f'{name} does not exist'):
            read_table(name)


def test_parameters_and_flops_are_those_of_the_plain_model(toy):
    cfg = Config.fromfile(toy.with_suffix('.py'))
    cfg.model = dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='ResNet',
            depth=18,
            stem_channels=4,
            base_channels=4,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=cfg.model.decode_head,
        auxiliary_head=dict(cfg.model.decode_head, in_index=3, channels=100),
        test_cfg=dict(mode='whole'),
    )
    small = model_cost(cfg, (64, 64))
    large = model_cost(cfg, (128, 64), seconds=0.01)
    del cfg.model.auxiliary_head
    model = Runner.build_model(Runner.__new__(Runner), cfg.model)
    counted = sum(p.numel() for p in model.parameters())
    assert small['parameters'] == large['parameters'] == counted
    assert large['flops'] == 2 * small['flops'] > 0
    assert large['latency'] > 0 and 'latency' not in small


def test_cost_of_a_segmentor_that_classifies_masks():
    cfg = Config(
        dict(default_scope='mmseg', model=query_segmentor()),
    )
    cost = model_cost(cfg, (64, 64), seconds=0.01)
    assert cost['flops'] > 0 and cost['latency'] > 0


# ----------------------------------------------------------------------- runs


def test_run_killed_in_its_last_validation_is_tested_only(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'work_dirs')[0]
    job.work_dir.mkdir(parents=True)
    job.last_checkpoint.touch()
    assert job.command()[:3] == ['mim', 'test', distribution_of('mmseg')]
    assert job.log() is None
    leave_test(job, str(job.last_checkpoint), 3.0)
    assert job.log().metrics == dict(mIoU=3.0)


def test_row_with_a_checkpoint_has_the_metrics_of_that_checkpoint(
    toy, monkeypatch
):
    """Not those of a training, or of a test of another one."""
    monkeypatch.chdir(toy.parent)
    student = dict(config='toy.py', checkpoint='published.pth')
    pairs = [dict(title='x', student=student)]
    (job,) = plan(read_table(write(toy, pairs=pairs)), 'work_dirs')
    leave_test(job, 'other.pth', 3.0)
    leave_training(
        job, FINISHED, dict(randomness=dict(seed=0)), '20260102_000000'
    )
    assert job.log() is None
    leave_test(job, 'published.pth', 7.0, '20260103_000000')
    leave_test(job, 'other.pth', 4.0, '20260104_000000')
    assert job.log().metrics == dict(mIoU=7.0)


def test_run_that_was_tested_since_is_known_by_its_training(toy, monkeypatch):
    """A test writes its config, without a seed, in place of the run's."""
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'work_dirs')[1]
    leave_training(job, FINISHED, dict(randomness=dict(seed=1)))
    leave_test(job, str(job.last_checkpoint), 54.0, '20260102_000000')
    assert job.log().metrics == dict(mIoU=55.0)


@pytest.mark.parametrize(
    'records, done',
    [
        ([dict(iter=4, step=4), dict(mIoU=1.0, step=4)], True),
        ([dict(iter=4, step=4), dict(mIoU=1.0, step=0)], True),
        ([dict(iter=2, step=2), dict(mIoU=1.0, step=2)], False),
        ([dict(iter=2, step=2), dict(mIoU=1.0, step=0)], False),
        ([dict(mIoU=1.0, step=2), dict(iter=4, step=4)], False),
    ],
)
def test_only_a_run_validated_at_its_end_is_done(
    toy, monkeypatch, records, done
):
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'work_dirs')[0]
    leave_training(job, records, dict(randomness=dict(seed=0)))
    assert (job.log() is not None) == done


def test_work_directory_of_another_seed_is_refused(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'work_dirs')[1]
    leave_training(job, FINISHED, dict(randomness=dict(seed=7)))
    with pytest.raises(ValueError, match='seed 1 .* its config says 7'):
        job.log()


@pytest.mark.parametrize(
    'config',
    [
        dict(optim_wrapper=dict(optimizer=dict(lr=1.0)), hooks=[dict(a=1)]),
        dict(optim_wrapper=dict(optimizer=dict(lr=99.0)), hooks=[]),
    ],
)
def test_run_with_other_options_is_refused(toy, monkeypatch, config):
    """As when a row is edited and its variant is not."""
    monkeypatch.chdir(toy.parent)
    options = {'optim_wrapper.optimizer.lr': 99.0, 'hooks.0.a': 1}
    student = dict(config='toy.py', variant='v', options=options)
    pairs = [dict(title='x', student=student)]
    base = Config.fromfile('toy.py')
    base.hooks = [dict(a=2)]
    base.dump('toy.py')
    (job,) = plan(read_table(write(toy, pairs=pairs, seeds=[0])), 'work_dirs')
    seed = dict(randomness=dict(seed=0))
    leave_training(job, FINISHED, dict(config, **seed))
    with pytest.raises(ValueError, match='the options .*99.0.* Move it away'):
        job.log()
    right = dict(
        config, hooks=[dict(a=1)], optim_wrapper=dict(optimizer=dict(lr=99.0))
    )
    leave_training(job, FINISHED, dict(right, **seed), '20260102_000000')
    assert job.log().metrics == dict(mIoU=55.0)


def test_costs_of_another_input_size_are_measured_anew(toy, tool, monkeypatch):
    monkeypatch.setattr(tool, 'run_jobs', lambda jobs, _: [])
    table = read_table(toy)
    for job in plan(table, 'work_dirs'):
        leave_training(job, FINISHED, dict(randomness=dict(seed=job.seed)))
    argv = ['run_table.py', str(toy), '--cpu', '--results', 'kept']
    monkeypatch.setattr(sys, 'argv', argv)

    def flops():
        tool.main()
        (row,) = json.loads(Path('work_dirs/tables/toy.json').read_text())[
            'rows'
        ]
        return row['flops']

    small = flops()
    height, width = table.input_size
    write(toy, input_size=[2 * height, width])
    assert flops() == 2 * small


def test_dry_run_prints_the_commands_and_runs_nothing(
    toy, tool, monkeypatch, capsys
):
    monkeypatch.setattr(subprocess, 'Popen', None)
    monkeypatch.setattr(
        sys, 'argv', ['run_table.py', str(toy), '--cpu', '--dry-run']
    )
    tool.main()
    said = capsys.readouterr().out
    for seed, place in ((0, 'toy'), (1, 'toy_seed-1')):
        assert (
            'CUDA_VISIBLE_DEVICES= mim train '
            f'{distribution_of("mmseg")} toy.py --launcher none --gpus 0 '
            f'--work-dir work_dirs/{place} '
            f'--cfg-options randomness.seed={seed}\n'
        ) in said
    assert '4 iterations x batch 2 = 8 images' in said
    assert '0 runs done, 2 to run' in said
    assert not Path('work_dirs').exists()


def test_dry_run_sums_the_gpu_hours_that_were_measured(
    toy, tool, monkeypatch, capsys
):
    key = cost_key(Config.fromfile(toy.parent / 'toy.py'))
    cost = dict(config='toy', key=key, gpus=4, tflops=10.0, gpu_hours=8.0)
    costs = toy.parent / 'costs.json'
    costs.write_text(json.dumps(dict(rows=[cost, dict(error='No.')])))
    write(
        toy,
        pairs=[
            dict(
                title='toy',
                student='toy.py',
                rows=dict(
                    more=dict(
                        config='toy.py',
                        variant='more',
                        options={'train_cfg.max_iters': 9},
                    )
                ),
            )
        ],
        seeds=[0, 1],
    )
    # Seed 1 has been at it for one of its four iterations.
    begun = Path('work_dirs/toy_seed-1')
    begun.mkdir(parents=True)
    (begun / 'last_checkpoint').write_text('iter_1.pth')
    (begun / 'iter_1.pth').touch()

    def said(*options):
        argv = ['run_table.py', str(toy), '--cpu', '--dry-run', *options]
        monkeypatch.setattr(sys, 'argv', argv)
        tool.main()
        return capsys.readouterr().out

    text = said('--step-costs', str(costs))
    # On one GPU, a quarter of the images.
    assert '2 GPU hours at 10 TFLOP/s' in text
    assert '1.5 GPU hours at 10 TFLOP/s' in text
    assert text.count('GPU hours not measured') == 2
    assert '# about 3.5 GPU hours for 2 of them' in text
    assert said().count('GPU hours not measured') == 4


def test_options_give_every_run_its_place(tool, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)

    def places(*options):
        monkeypatch.setattr(sys, 'argv', ['run_table.py', 'x.yml', *options])
        return tool.devices_of(tool.parse_args())

    assert places('--gpus', '0,2') == [
        Device((0,)),
        Device((2,)),
    ]
    assert places('--gpus', '0,2', '--gpu-runs', '2') == [
        Device((0,)),
        Device((2,)),
        Device((0,)),
        Device((2,)),
    ]
    assert places('--launcher', 'pytorch', '--gpus', '4') == [
        Device((0, 1, 2, 3), 4)
    ]
    assert places('--cpu') == [Device()]
    assert places('--cpu', '--cpu-runs', '2') == [Device()] * 2
    with pytest.raises(ValueError, match=r'below 4, .* but got \[1, 4\]'):
        places('--gpus', '1,4')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5,6')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    assert places('--launcher', 'pytorch', '--gpus', '2') == [
        Device((3, 5), 2)
    ]
    assert places() == [Device((3,))]
    assert places('--gpus', '0,2') == [Device((3,)), Device((6,))]
    for options in (['3'], ['4', '--launcher', 'pytorch']):
        with pytest.raises(ValueError, match='below 3, '):
            places('--gpus', *options)
    monkeypatch.setattr(submitit.SlurmExecutor, 'affinity', lambda _: 1)
    day = dict(time=24 * 60)
    assert places('--slurm', '--cpu') == [Device(slurm=day)]
    on_slurm = '--slurm', 'nodes=2', 'partition=a', '--gpus', '4'
    (device,) = places(*on_slurm, '--launcher', 'pytorch')
    assert device == Device((0, 1, 2, 3), 4, dict(day, nodes=2, partition='a'))
    assert device.batches == 8
    for options in (
        ('--slurm', 'partition'),
        ('--slurm', 'partitoin=a'),
        on_slurm,
        ('--slurm', '--gpus', '0,1'),
        ('--gpus', '0,0'),
        ('--gpus', 'all'),
        ('--gpu-runs', '0'),
        ('--cpu', '--gpus', '1'),
        ('--cpu', '--cpu-runs', '0'),
        ('--launcher', 'pytorch', '--gpus', '0,1'),
    ):
        with pytest.raises(ValueError, match='Expected'):
            places(*options)


def test_joined_log_reads_as_the_run_did(tmp_path):
    log = Log(
        train=[
            dict(loss=1.0, epoch=e, iter=i, step=i)
            for i, e in ((50, 1), (100, 1), (150, 2), (200, 2))
        ],
        val=[
            dict(mAP=0.1, iter=100, epoch=1),
            dict(mAP=0.2, iter=200, epoch=2),
        ],
    )
    name = Row('x', 'a/b.py', (0, 1)).run_name(1)
    copy_log(tmp_path, name, log)
    assert results_log(tmp_path, name) == log
    assert [f.name for f in tmp_path.iterdir()] == ['b_seed-1.json']


def test_table_in_the_docs_is_made_from_kept_logs(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.syspath_prepend(str(ROOT / '.dev_scripts'))
    import make_tables

    text = '<!-- table: tables/camvid.yml -->\nold\n<!-- end -->\n'
    lines = make_tables.fill(text).splitlines()
    kept = ROOT / 'results/camvid'
    name = 'fpn_r18-w32_1xb8-1k_camvid-120x160'
    values = [
        read_log([file]).metrics['mIoU']
        for file in (
            kept / f'{name}{seed}.json' for seed in ('', '_seed-1', '_seed-2')
        )
        if file.exists()
    ]
    (row,) = (x for x in lines if x.startswith('| student '))
    assert f' {statistics.fmean(values):.2f}' in row
