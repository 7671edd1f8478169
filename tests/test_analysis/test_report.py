"""The page that compares runs: what it reads, what it says, how it looks."""

import base64
import html
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from scipy.spatial.distance import cdist

from mmbckd.analysis.formatting import lower_is_better
from mmbckd.analysis.predictions import Predictor, build_dataset, build_student
from mmbckd.analysis.report import write_report
from mmbckd.analysis.report.comparison import (
    ABSENT,
    config_table,
    metric_table,
)
from mmbckd.analysis.report.curves import (
    loss_curves,
    metric_curves,
    smooth,
    style,
)
from mmbckd.analysis.report.images import compare_images, pick_images, score
from mmbckd.analysis.runs import (
    Log,
    Run,
    find_checkpoint,
    read_log,
    read_run,
    run_names,
)
from mmbckd.visualization import ERROR_COLORS
from tests.runs import config as run_config

TOOL = Path(__file__).parents[2] / 'tools' / 'report.py'
CLASSES = ('road', 'a<b>&amp;', 'c"', "d'", 'e')
NAMES = ['alone', 'distilled <script>alert(1)</script> & "more"', 'crashed']
NUM_IMAGES = 6

# --------------------------------------------------------------------- logs


def write_log(folder, *records, name='20260101_000000'):
    vis_data = folder / name / 'vis_data'
    vis_data.mkdir(parents=True)
    text = '\n'.join(map(json.dumps, records)) + '\n'
    (vis_data / f'{name}.json').write_text(text)
    extra = json.dumps(dict(step=1, other_visualization=1))
    (vis_data / 'scalars.json').write_text(f'{text}{extra}\n')
    return vis_data / f'{name}.json'


def train(step, **kwargs):
    return dict(lr=0.1, time=1, **kwargs, iter=step, step=step)


def val(step, **kwargs):
    return dict(**kwargs, data_time=0.1, time=0.1, step=step)


def test_resumed_run_takes_the_place_of_what_it_made_again(tmp_path):
    first = write_log(
        tmp_path,
        *(train(i, loss=1.0) for i in (10, 20)),
        val(20, mIoU=1.0),
        *(train(i, loss=1.0) for i in (30, 40)),
        val(40, mIoU=1.0),
        name='20260101_000000',
    )
    resumed = write_log(
        tmp_path,
        *(train(i, loss=2.0) for i in (30, 40)),
        val(40, mIoU=2.0),
        train(50, loss=2.0),
        name='20260102_000000',
    )
    log = read_log([first, resumed])
    assert [(r['iter'], r['loss']) for r in log.train] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
        (40, 2.0),
        (50, 2.0),
    ]
    assert log.val == [dict(mIoU=1.0, iter=20), dict(mIoU=2.0, iter=40)]
    assert log.metrics == dict(mIoU=2.0)


def test_run_begun_anew_forgets_the_old_one(tmp_path):
    old = write_log(tmp_path, *(train(i, loss=1.0) for i in (10, 20, 30)))
    new = write_log(tmp_path, train(10, loss=2.0), name='20260102_000000')
    assert [r['loss'] for r in read_log([old, new]).train] == [2.0]


def test_validations_counted_in_epochs_get_their_iterations(tmp_path):
    log = read_log(
        [
            write_log(
                tmp_path,
                train(50, loss=3.0, epoch=1),
                train(100, loss=2.0, epoch=1),
                val(1, mAP=0.1),
                train(150, loss=1.0, epoch=2),
                val(2, mAP=0.2),
            )
        ]
    )
    assert [(r['iter'], r['mAP']) for r in log.val] == [(100, 0.1), (150, 0.2)]


def test_validations_counted_by_nothing_get_their_iterations(tmp_path):
    """mmengine's default for loops of iterations: all are at step 0."""
    first = write_log(
        tmp_path,
        train(50, loss=4.0),
        train(100, loss=3.0),
        val(0, mAP=0.1),
        train(150, loss=2.0),
    )
    resumed = write_log(
        tmp_path,
        train(150, loss=1.0),
        train(200, loss=0.0),
        val(0, mAP=0.2),
        name='20260102_000000',
    )
    log = read_log([first, resumed])
    assert log.val == [dict(mAP=0.1, iter=100), dict(mAP=0.2, iter=200)]
    assert [r['loss'] for r in log.train] == [4.0, 3.0, 1.0, 0.0]


def test_line_that_is_still_being_written_is_left_out(tmp_path):
    file = write_log(tmp_path, train(10, loss=1.0))
    file.write_text(file.read_text() + '{"lr": 0.1, "lo')
    assert len(read_log([file]).train) == 1


@pytest.mark.parametrize('line', ['{"lr": 0.1, "lo', '[1, 2]', '3', '{}'])
def test_line_that_is_no_record_is_named(tmp_path, line):
    file = write_log(tmp_path, train(10, loss=1.0))
    file.write_text(f'{line}\n{file.read_text()}')
    with pytest.raises(ValueError, match='line 1 of .*json is none'):
        read_log([file])


@pytest.mark.parametrize(
    'files, expected',
    [
        (['iter_9.pth', 'iter_10.pth', 'best_mIoU_iter_9.pth'], 'iter_10.pth'),
        (['epoch_9.pth', 'epoch_10.pth'], 'epoch_10.pth'),
        (['best_mIoU_iter_9.pth', 'other.pth'], 'best_mIoU_iter_9.pth'),
        (['iter_9_student.pth'], 'iter_9.pth'),
        (['other.pth'], None),
    ],
)
def test_last_checkpoint_is_found(tmp_path, files, expected):
    for file in files:
        (tmp_path / file).touch()
    found = find_checkpoint(tmp_path)
    assert (found and found.name) == expected


def test_last_checkpoint_is_found_where_the_run_was_moved_to(tmp_path):
    for name in ('iter_1.pth', 'iter_2.pth'):
        (tmp_path / name).touch()
    (tmp_path / 'last_checkpoint').write_text('elsewhere/iter_1.pth')
    assert find_checkpoint(tmp_path) == tmp_path / 'iter_1.pth'


def test_names_leave_out_what_all_end_in_but_differ():
    assert run_names(
        ['w/fpn_r18_1xb8_camvid', 'w/cwd_fpn_r50_1xb8_camvid']
    ) == ['fpn_r18', 'cwd_fpn_r50']
    assert run_names(['w/fpn_r18_1xb8_camvid.py']) == ['fpn_r18_1xb8_camvid']
    assert run_names(['0/a_b', '1/a_b']) == ['0/a_b', '1/a_b']
    assert run_names(['0/a_b', '0/a_b']) == ['0/a_b', '0/a_b (2)']


# ------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    'metric',
    [
        'mIoU',
        'mAcc',
        'aAcc',
        'mBIoU',
        'bF1',
        'bF1_3px',
        'trimap_mIoU_3px',
        'whole_regions',
        'coco/bbox_mAP_50',
    ],
)
def test_higher_is_better(metric):
    assert not lower_is_better(metric)


@pytest.mark.parametrize(
    'metric', ['b0_err', 'val/b1_err', 'stray_fragments', 'val/loss_ce']
)
def test_lower_is_better(metric):
    assert lower_is_better(metric)


def test_best_and_differences_follow_the_direction_of_the_metric():
    table = metric_table(
        [
            dict(mIoU=40.001, b0_err=2.0, mAP=0.3),
            dict(mIoU=41.0, b0_err=3.0, mAP=0.25),
            dict(mIoU=40.9999, b0_err=float('nan')),
        ]
    )
    assert [c.value for c in table['mIoU']] == ['40.00', '41.00', '41.00']
    assert [c.best for c in table['mIoU']] == [False, True, True]
    assert [c.difference for c in table['mIoU']] == ['', '+1.00', '+1.00']
    assert [c.best for c in table['b0_err']] == [True, False, False]
    assert [c.better for c in table['b0_err']] == [None, False, None]
    assert [c.value for c in table['b0_err']] == ['2.00', '3.00', '—']
    assert [c.difference for c in table['mAP']] == ['', '-0.050', '']
    assert [c.value for c in table['mAP']] == ['0.300', '0.250', '—']


def test_differences_are_those_to_the_baseline():
    row = metric_table([dict(b0_err=2.0), dict(b0_err=3.0)], 1)['b0_err']
    assert [(c.difference, c.better) for c in row] == [
        ('-1.00', True),
        ('', None),
    ]


def run_of(log=None, checkpoint=None, **config):
    log = log or Log([], [])
    return Run('name', 'path', Config(config), log, checkpoint)


def test_configs_differ_in_what_is_named():
    plain = run_of(
        model=dict(type='EncoderDecoder', depth=18),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='A', n=1), dict(type='B')],
        val_evaluator=[dict(type='A')],
        work_dir='a',
        my_variable=1,
    )
    distilled = run_of(
        model=dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=dict(type='EncoderDecoder', depth=34),
            distiller=dict(boundary=dict(loss_weight=0.5)),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.2)),
        custom_hooks=[dict(type='A', n=2), dict(type='B')],
        val_evaluator=[dict(type='A'), dict(type='B')],
        work_dir='b',
        my_variable=2,
    )
    assert config_table([plain, distilled]) == {
        'model.depth': [18, 34],
        'distillation.type': [ABSENT, 'mmrazor.FrozenTeacherDistill'],
        'distillation.distiller.boundary.loss_weight': [ABSENT, 0.5],
        'optim_wrapper.optimizer.lr': [0.1, 0.2],
        'custom_hooks.0.n': [1, 2],
        'val_evaluator': [[dict(type='A')], [dict(type='A'), dict(type='B')]],
    }
    assert config_table([plain, plain]) == {}


# ------------------------------------------------------------------- curves


def test_every_term_of_the_loss_has_its_curve():
    alone = Log([dict(train(1, loss=1.0), **{'decode.loss_ce': 1.0})], [])
    distilled = Log(
        [
            dict(
                train(1, loss=3.0),
                **{
                    'student.decode.loss_ce': 1.0,
                    'student.decode.acc_seg': 50.0,
                    'distill.loss_bd': 2.0,
                },
            )
        ],
        [dict(mIoU=40.0, iter=1)],
    )
    curves = loss_curves([alone, distilled])
    assert list(curves) == ['loss', 'decode.loss_ce', 'distill.loss_bd']
    assert [c.values.tolist() for c in curves['decode.loss_ce']] == [
        [1.0],
        [1.0],
    ]
    assert [c.values.tolist() for c in curves['distill.loss_bd']] == [
        [],
        [2.0],
    ]
    (curve,) = metric_curves([distilled])['mIoU']
    assert curve.iterations.tolist() == [1] and curve.values.tolist() == [40]


@pytest.mark.parametrize('length', [1, 5, 20, 47, 400])
def test_smoothed_curve_is_the_mean_of_its_neighbors(length):
    values = np.random.default_rng(0).normal(size=length)
    values[length // 2] = np.nan
    reach = length // 20
    expected = [
        np.nanmean([*values[max(0, i - reach) : i + reach + 1]])
        if reach
        else values[i]
        for i in range(length)
    ]
    np.testing.assert_allclose(smooth(values), expected)


def test_no_two_runs_look_alike():
    assert len({style(i) for i in range(28)}) == 28


# ------------------------------------------------------------------- images


def naive_bf1(prediction, truth, num_classes, tolerance=2, ignore=255):
    """F-score of the boundaries of all classes, from its definition."""

    def contour(mask):
        points = []
        for y, x in np.argwhere(mask):
            window = (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
            if (~mask[window] & (truth[window] != ignore)).any():
                points.append((y, x))
        return np.array(points).reshape(-1, 2)

    counts = np.zeros(4)
    for c in range(num_classes):
        p, t = (
            contour((x == c) & (truth != ignore)) for x in (prediction, truth)
        )
        near = cdist(p, t) <= tolerance
        counts += near.any(1).sum(), len(p), near.any(0).sum(), len(t)
    precision, recall = counts[0] / counts[1], counts[2] / counts[3]
    return 2 * precision * recall / (precision + recall)


def test_score_of_an_image_is_the_f_score_of_all_its_boundaries():
    rng = np.random.default_rng(0)
    truth, prediction = (
        np.kron(rng.integers(0, 4, (5, 6)), np.ones((4, 4), int))
        for _ in range(2)
    )
    truth[3:9, 5:12] = 255
    result = score(prediction, truth, 4, 255)
    assert result.bf1 == pytest.approx(naive_bf1(prediction, truth, 4))
    # Classes that are not there make no difference.
    assert score(prediction, truth, 50, 255) == result
    valid = truth != 255
    assert result.accuracy == pytest.approx(
        (prediction == truth)[valid].mean()
    )
    assert np.isnan(score(truth * 0, truth * 0, 4, 255).bf1)


def test_picked_images_are_those_of_the_greatest_gains_and_losses():
    scores = np.random.default_rng(0).random((30, 3))
    scores[[3, 7], [0, 2]] = np.nan
    picks = pick_images(scores, 1, 9)
    kinds = [(run, sign) for run in (0, 2) for sign in (1, -1)]
    shown = set()
    expected = {kind: [] for kind in kinds}
    for rank in range(30):
        for run, sign in kinds:
            gains = {
                i: sign * (s[run] - s[1])
                for i, s in enumerate(scores)
                if not np.isnan([s[run], s[1]]).any()
            }
            if len(shown) < 9:
                i = sorted(gains, key=gains.get, reverse=True)[rank]
                expected[run, sign].append(i)
                shown.add(i)
    assert [(p.index, p.run) for p in picks] == [
        (i, run) for run, sign in kinds for i in expected[run, sign]
    ]
    assert len({p.index for p in picks}) == 9
    assert all(
        p.gain == scores[p.index, p.run] - scores[p.index, 1] for p in picks
    )


def test_images_that_runs_share_count_once():
    """Both others gain most on the same image."""
    scores = np.array([[0, 5, 5], [0, 4, 3], [0, 3, 4], [0, -1, -1]])
    picks = pick_images(scores, 0, 4)
    assert {p.index for p in picks} == {0, 1, 2, 3}
    assert {p.index for p in pick_images(scores, 0, 1)} == {0, 3}


def test_run_that_only_gains_has_no_losses_to_show():
    scores = np.array([[0.1, 0.3], [0.2, 0.2], [0.1, 0.2]])
    assert [p.index for p in pick_images(scores, 0, 4)] == [0, 2]


# --------------------------------------------------------- runs of the tests


def write_images(root):
    """Rectangles of classes, their colors, and noise."""
    rng = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        label = np.zeros((64, 64), np.uint8)
        for c in range(1, 5):
            y, x = rng.integers(0, 48, 2)
            label[y : y + 20, x : x + 14] = c
        label[:4, :4] = 255
        image = 50 * np.minimum(label, 4)[..., None] + rng.integers(
            0, 40, (64, 64, 3)
        )
        mmcv.imwrite(image.astype(np.uint8), str(root / 'img' / f'{i}.png'))
        mmcv.imwrite(label, str(root / 'ann' / f'{i}.png'))


def config(root, name, distill):
    cfg = run_config(
        root,
        distill,
        CLASSES,
        work_dir=str(root / name),
        experiment_name=f'{root.name}_{name}',
        val_evaluator=[
            dict(type='IoUMetric'),
            dict(
                type='BoundaryIoUMetric', trimap_widths=(3,), tolerances=(3,)
            ),
            dict(type='ConnectivityMetric'),
        ],
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=0.002 if distill else 0.001),
        ),
        default_hooks=dict(
            logger=dict(
                type='LoggerHook', interval=1, log_metric_by_epoch=False
            ),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4),
        ),
        custom_hooks=[dict(type='StudentCheckpointHook')],
        log_processor=dict(by_epoch=False, window_size=1),
        vis_backends=[dict(type='LocalVisBackend')],
        visualizer=dict(
            type='SegLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
            name=f'{root.name}_{name}',
        ),
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.img_suffix = '.png'
        loader.dataset.metainfo.palette = [
            [40 * i, 255 - 50 * i, 90] for i in range(5)
        ]
    student = cfg.model.architecture if distill else cfg.model
    student.data_preprocessor.update(mean=[100.0] * 3, std=[60.0] * 3)
    # So that it predicts all classes without having learned to.
    student.decode_head.init_cfg = dict(
        type='Normal', std=2.0, override=dict(name='conv_seg')
    )
    return cfg


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A student alone, one distilled, and a run that has crashed."""
    init_default_scope('mmseg')
    root = tmp_path_factory.mktemp('report')
    write_images(root)
    models = []
    for name, distill in (('alone', False), ('distilled', True)):
        runner = Runner.from_cfg(config(root, name, distill))
        runner.train()
        runner.visualizer.close()
        models.append(runner.model.eval())
    crashed = root / 'crashed'
    shutil.copytree(
        root / 'alone', crashed, ignore=shutil.ignore_patterns('*.pth')
    )
    (crashed / 'last_checkpoint').unlink()
    log = next(crashed.glob('*/vis_data/2*.json'))
    log.write_text('\n'.join(log.read_text().splitlines()[:2]))
    paths = [str(root / name) for name in ('alone', 'distilled', 'crashed')]
    return paths, models


@pytest.fixture(scope='module')
def page(runs, tmp_path_factory):
    """The page that compares them."""
    out = tmp_path_factory.mktemp('page') / 'deep' / 'report.html'
    assert write_report(
        runs[0], str(out), names=NAMES, num_images=3, device='cpu'
    ) == str(out)
    return out


class StrictPage(HTMLParser):
    """Reads a page; raises where a browser would have to guess."""

    VOID = {'meta', 'img', 'br', 'wbr'}

    def __init__(self, text):
        super().__init__(convert_charrefs=False)
        self.open, self.tags, self.text = [], [], ''
        self.rows = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_startendtag(self, tag, attrs):
        assert 'svg' in self.open, f'<{tag}/> is no HTML'
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        assert 'style' in self.open or not re.search('[<&]', data)
        self.add(data)

    def handle_charref(self, name):
        self.add(html.unescape(f'&#{name};'))

    def handle_entityref(self, name):
        self.add(html.unescape(f'&{name};'))

    def add(self, data):
        self.text += data
        if {'td', 'th'} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def row(self, start):
        """The row whose first cell starts so."""
        (row,) = (
            r for r in self.rows if ' '.join(r[0].split()).startswith(start)
        )
        return [' '.join(cell.split()) for cell in row]


@pytest.fixture(scope='module')
def parsed(page):
    return StrictPage(page.read_text())


def pictures(parsed):
    """Kind, content and alternative text of every picture."""
    for img in parsed.all('img'):
        kind, data = re.fullmatch(
            r'data:image/([\w+]+);base64,(.*)', img['src']
        ).groups()
        yield kind, base64.b64decode(data, validate=True), img['alt']


def test_page_needs_no_network_and_no_script(page, parsed):
    assert not parsed.all('script') and not parsed.all('link')
    for _, attrs in parsed.tags:
        for name, value in attrs.items():
            assert not name.startswith('on')
            if name in ('src', 'href', 'srcset', 'data', 'xlink:href'):
                assert value.startswith(('data:image/', '#')), value[:80]
    assert not re.search(r'@import|url\(', page.read_text())
    for kind, data, _ in pictures(parsed):
        if kind == 'svg+xml':
            for element in ElementTree.fromstring(data).iter():
                for key, value in element.attrib.items():
                    if key.endswith('href'):
                        assert value.startswith(('data:image/', '#'))


def test_page_is_sound(parsed):
    """Links lead somewhere, tables are whole, headings are in order."""
    ids = [a['id'] for _, a in parsed.tags if 'id' in a]
    assert len(set(ids)) == len(ids)
    assert {a['href'][1:] for a in parsed.all('a')} <= set(ids)
    assert all(cell.get('scope') for cell in parsed.all('th'))
    levels = [
        int(tag[1]) for tag, _ in parsed.tags if tag in ('h1', 'h2', 'h3')
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:]))
    assert {len(row) for row in parsed.rows} == {1, 4}
    assert parsed.all('html')[0]['lang'] == 'en'


def test_every_picture_decodes_and_has_an_alternative_text(parsed):
    found = list(pictures(parsed))
    for kind, data, alt in found:
        assert alt
        if kind == 'jpeg':
            image = Image.open(io.BytesIO(data))
            image.load()
            assert image.size == (64, 64)
        else:
            width = ElementTree.fromstring(data).attrib['width']
            assert float(width.removesuffix('pt')) > 100
    # Per image: itself, the truth and the errors of two runs.
    number = len(set(re.findall(r'Image (\d\.png)', page_alts(parsed))))
    assert sum(kind == 'jpeg' for kind, *_ in found) == 4 * number > 0


def page_alts(parsed):
    return ' '.join(img['alt'] for img in parsed.all('img'))


def test_names_and_classes_are_text_not_markup(page, parsed):
    text = page.read_text()
    assert '<script' not in text and 'a<b>' not in text
    for name in (*NAMES, *CLASSES):
        assert name in parsed.text


def test_metrics_on_the_page_are_those_of_the_log(runs, parsed):
    logs = [read_run(path, '').log for path in runs[0]]
    for key in (
        'mIoU',
        'mBIoU',
        'trimap_mIoU_3px',
        'bF1',
        'b0_err',
        'whole_regions',
        'stray_fragments',
    ):
        alone, distilled = (log.metrics[key] for log in logs[:2])
        row = parsed.row(f'{key} {"↓" if lower_is_better(key) else "↑"}')
        assert row[1].split()[0] == f'{alone:.2f}'
        assert row[2].split()[0] == f'{distilled:.2f}'
        assert row[2].split()[-1] == f'{distilled - alone:+.2f}'
        assert row[3] == '—'
        best = (min if lower_is_better(key) else max)(alone, distilled)
        assert ['(best)' in cell for cell in row[1:3]] == [
            alone == best,
            distilled == best,
        ]


def test_curves_are_drawn_in_the_styles_of_the_runs(parsed):
    drawn = {
        alt.split(' over')[0]: data.decode()
        for kind, data, alt in pictures(parsed)
        if kind == 'svg+xml'
    }
    assert {'loss', 'decode.loss_ce', 'distill.loss_bd', 'mIoU', 'bF1'} <= set(
        drawn
    )
    colors = [style(i).color.lower() for i in range(3)]
    assert all(color in drawn['loss'] for color in colors)
    assert [color in drawn['distill.loss_bd'] for color in colors] == [
        False,
        True,
        False,
    ]
    assert colors[2] not in drawn['mIoU']  # it had crashed by then


def test_page_says_what_a_crashed_run_lacks(parsed):
    row = parsed.row('crashed')
    assert row[1].startswith('Not finished: ')
    assert 'of 4 iterations' in row[1] and 'No validation' in row[1]
    assert row[2].startswith('None')
    text = ' '.join(parsed.text.split())
    assert 'No predictions of crashed: it has no checkpoint' in text
    assert parsed.row('alone')[1:3] == ['4 of 4 iterations', 'iter_4.pth']


def test_config_with_its_checkpoint_alone_is_not_called_unfinished(
    runs, tmp_path
):
    (file,) = Path(runs[0][0]).glob('*.py')
    shutil.copy(file, tmp_path / 'shipped.py')
    shutil.copy(f'{runs[0][0]}/iter_4.pth', tmp_path / 'shipped.pth')
    out = write_report(
        [tmp_path / 'shipped.py'],
        str(tmp_path / 'out.html'),
        draw_images=False,
    )
    row = StrictPage(Path(out).read_text()).row('shipped')
    assert row[1:3] == ['No log of its training', 'shipped.pth']


def test_page_shows_the_configs_difference(parsed):
    assert parsed.row('optim_wrapper.optimizer.lr')[1:] == [
        '0.001',
        '0.002',
        '0.001',
    ]
    assert parsed.row('distillation.type')[1:] == [
        '—',
        "'mmrazor.FrozenTeacherDistill'",
        '—',
    ]
    keys = [row[0] for row in parsed.rows]
    assert not any(key.startswith(('model.', 'work_dir')) for key in keys)


def test_page_ranks_images_by_the_predictions_of_the_runs(runs, parsed):
    """Against the models as they were when their training ended."""
    paths, (alone, distilled) = runs
    entries = [read_run(path, '') for path in paths[:2]]
    predictor = Predictor(entries, [alone, distilled.student])
    dataset = build_dataset(entries[0])
    truth, scores = [], []
    for i in range(NUM_IMAGES):
        _, label, predictions = predictor.predict(i)
        np.testing.assert_array_equal(
            label, mmcv.imread(f'{dataset.data_root}/ann/{i}.png', 'unchanged')
        )
        truth.append(label)
        scores.append([naive_bf1(p, label, 5) for p in predictions])
    scores = np.nan_to_num(scores)
    gains = scores[:, 1] - scores[:, 0]
    assert [
        NAMES[1],
        str((gains > 0).sum()),
        str((gains < 0).sum()),
        f'{100 * gains.mean():+.1f}',
    ] in parsed.rows
    text = ' '.join(parsed.text.split())
    for i, word in ((gains.argmax(), 'better'), (gains.argmin(), 'worse')):
        if gains[i] * (1 if word == 'better' else -1) > 0:
            assert (
                f'{i}.png {NAMES[1]} is {100 * abs(gains[i]):.1f} '
                f'points {word} than alone.' in text
            )


def changed(path, out, change, name='changed'):
    """A copy of a run, with its config changed."""
    run = read_run(str(shutil.copytree(path, out)), name)
    change(run.config)
    run.config.dump(str(next(out.glob('*.py'))))
    return run


def resize(before):
    """Let a run see images of another size."""

    def change(cfg):
        cfg.val_dataloader.dataset.pipeline.insert(
            1 if before else 2, dict(type='Resize', scale=(40, 24))
        )

    return change


@pytest.mark.parametrize('before', [True, False])
def test_every_run_predicts_through_its_own_pipeline(runs, tmp_path, before):
    """Which sees images squeezed to 40x24; its truth is squeezed, or not."""
    (plain, _, _), (model, _) = runs
    squeezed = changed(plain, tmp_path / 'run', resize(before))
    entries = [squeezed, read_run(plain, 'plain')]
    predictor = Predictor(entries, [model, model])
    root = Path(plain).parent
    gains = []
    for i in range(NUM_IMAGES):
        maps = predictor.predict(i)
        image = mmcv.imread(str(root / 'img' / f'{i}.png'))
        truth = mmcv.imread(str(root / 'ann' / f'{i}.png'), 'unchanged')
        np.testing.assert_array_equal(maps.truth, truth)
        for found, size in zip(maps.predictions, ((24, 40), (64, 64))):
            seen = torch.from_numpy(mmcv.imresize(image, size[::-1]))
            seen = model.data_preprocessor(
                dict(inputs=[seen.permute(2, 0, 1)], data_samples=None)
            )
            with torch.no_grad():
                logits = model(seen['inputs'])
            logits = torch.nn.functional.interpolate(
                logits, size, mode='bilinear'
            )
            logits = torch.nn.functional.interpolate(
                logits, (64, 64), mode='bilinear'
            )
            np.testing.assert_array_equal(found, logits[0].argmax(0))
        first, second = (naive_bf1(p, truth, 5) for p in maps.predictions)
        gains.append(first - second)
    assert np.abs(gains).max() > 0.01
    images = compare_images(entries, 1, 8, NUM_IMAGES, 'cpu')
    (summary,) = images.summaries
    assert summary.mean == pytest.approx(np.mean(gains))
    assert images.pictures
    for picture in images.pictures:
        assert picture.image.shape == picture.truth.shape == (64, 64, 3)
        assert {errors.shape for errors in picture.errors} == {(64, 64, 3)}


def test_truth_that_only_one_run_gives_serves_all(runs, tmp_path):

    def change(cfg):
        del cfg.val_dataloader.dataset.pipeline[1]

    (plain, _, _), (model, _) = runs
    run = changed(plain, tmp_path / 'run', change)
    maps = Predictor([run, read_run(plain, '')], [model] * 2).predict(0)
    np.testing.assert_array_equal(*maps.predictions)
    with pytest.raises(ValueError, match='LoadAnnotations'):
        Predictor([run], [model]).predict(0)


def remove_val(cfg):
    cfg.val_dataloader = None


def remove_image(cfg):
    cfg.val_dataloader.dataset.update(indices=[0, 2, 3, 4, 5])


def swap_images(cfg):
    cfg.val_dataloader.dataset.update(indices=[1, 0, 2, 3, 4, 5])


@pytest.mark.parametrize(
    'change, message',
    [
        (remove_val, 'val_dataloader.*config of changed'),
        (remove_image, '6 in plain and 5 in changed'),
        (swap_images, '0.png in plain and 1.png in changed'),
    ],
)
def test_runs_that_see_other_images_are_named(runs, tmp_path, change, message):
    plain = runs[0][0]
    run = changed(plain, tmp_path / 'run', change)
    with pytest.raises(ValueError, match=message):
        compare_images([read_run(plain, 'plain'), run], 0, 8, 8, 'cpu')


@pytest.mark.parametrize('exported', [True, False])
def test_student_is_built_without_its_teacher(runs, tmp_path, exported):
    """From the plain checkpoint, or else out of the full one."""
    paths, (_, trained) = runs
    work_dir = shutil.copytree(paths[1], tmp_path / 'run')
    (work_dir / ('iter_4.pth' if exported else 'iter_4_student.pth')).unlink()
    run = read_run(str(work_dir), 'run')
    run.config.model.teacher = 'a teacher that is gone'
    student = build_student(run, 'cpu')
    assert not student.training
    for name, value in trained.student.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name
    assert not list(work_dir.glob('iter_4_student.pth')) or exported


# -------------------------------------------------------------- other inputs


def run_tool(monkeypatch, *arguments):
    """``python tools/report.py``, in this process."""
    spec = importlib.util.spec_from_file_location('report_tool', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, arguments)])
    tool.main()


def test_tool_compares_a_work_dir_with_a_config_and_its_checkpoint(
    runs, tmp_path, monkeypatch, capsys
):
    paths, _ = runs
    shipped = tmp_path / 'teacher.py'
    shutil.copy(next(Path(paths[0]).glob('*.py')), shipped)
    shutil.copy(f'{paths[0]}/iter_4.pth', shipped.with_suffix('.pth'))
    log = next(Path(paths[0]).glob('*/vis_data/2*.json'))
    shutil.copy(log, shipped.with_suffix('.json'))
    out = tmp_path / 'out.html'
    run_tool(
        monkeypatch,
        paths[1],
        shipped,
        '--out',
        out,
        '--max-images',
        3,
        '--device',
        'cpu',
        '--baseline',
        'teacher',
    )
    assert str(out) in capsys.readouterr().out
    parsed = StrictPage(out.read_text())
    assert parsed.row('teacher')[2] == 'teacher.pth'
    text = ' '.join(parsed.text.split())
    assert '3 evenly spaced ones of the 6 validation images' in text
    assert 'gains most over teacher' in text
    assert set(re.findall(r'Image (\d)\.png', page_alts(parsed))) <= {
        '0',
        '2',
        '5',
    }


def test_detectors_are_compared_without_pictures(tmp_path):
    """COCO's metrics, logged by epoch; the data need not be there."""
    for name, gain in (('a', 0.0), ('b', 0.01)):
        work_dir = tmp_path / name
        write_log(
            work_dir,
            *(
                record
                for epoch in range(1, 13)
                for record in (
                    train(50 * epoch, loss=2.0, loss_cls=1.0, epoch=epoch),
                    val(epoch, **{'coco/bbox_mAP': 0.3 + gain}),
                )
            ),
        )
        get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').dump(
            str(work_dir / 'retinanet.py')
        )
        (work_dir / 'epoch_12.pth').touch()
    paths = [tmp_path / 'a', tmp_path / 'b']
    out = write_report(paths, str(tmp_path / 'out.html'), draw_images=False)
    parsed = StrictPage(Path(out).read_text())
    assert parsed.row('coco/bbox_mAP')[1:] == ['0.300', '0.310 (best) +0.010']
    assert parsed.row('a')[1] == '12 of 12 epochs'
    assert 'Nothing, apart from' in parsed.text
    assert 'they were left out' in parsed.text
    for path in paths:
        (path / 'epoch_12.pth').unlink()
    text = Path(write_report(paths, out, device='cpu')).read_text()
    assert 'no run has the checkpoint of a model' in text


def spoil(root, name, paths):
    """A run that cannot be read, by what is wrong with it."""
    run = root / name
    if name == 'missing':
        return run
    run = shutil.copytree(paths[0], run)
    file = next(run.glob('*.py'))
    if name == 'no config':
        file.unlink()
    elif name == 'two configs':
        shutil.copy(file, run / 'other.py')
    elif name == 'broken config':
        file.write_text('model = dict(')
    elif name == 'no log':
        shutil.rmtree(next(run.glob('*/')))
    elif name == 'other classes':
        file.write_text(file.read_text().replace("'road'", "'street'"))
    elif name == 'other checkpoint':
        shutil.copy(f'{paths[1]}/iter_4.pth', run / 'iter_4.pth')
    elif name == 'half a checkpoint':
        whole = (run / 'iter_4.pth').read_bytes()
        (run / 'iter_4.pth').write_bytes(whole[: len(whole) // 2])
    elif name == 'config without checkpoint':
        return shutil.copy(file, root / 'alone.py')
    return run


@pytest.mark.parametrize(
    'name, message',
    [
        ('missing', 'work directory of a training.*which does not exist'),
        ('no config', r'has no \*\.py'),
        ('two configs', r'one config in .*other\.py'),
        ('broken config', 'config of mmengine.*cannot be read .SyntaxError'),
        ('no log', r'Expected a log .*vis_data/\*\.json'),
        ('other classes', 'same data, but `classes`.*road.* and .*street'),
        ('other checkpoint', 'iter_4.pth cannot be loaded into the model'),
        (
            'half a checkpoint',
            r'iter_4.pth \(.* bytes\) is not a checkpoint that '
            'PyTorch can read: it is cut off',
        ),
        ('config without checkpoint', 'NAME.pth or NAME.json beside it'),
    ],
)
def test_run_that_cannot_be_read_ends_with_one_message(
    runs, tmp_path, monkeypatch, capsys, name, message
):
    run = spoil(tmp_path, name, runs[0])
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, runs[0][0], run, '--out', tmp_path / 'out.html')
    error = capsys.readouterr().err
    assert re.search(f'report.py: error: .*{message}', error, re.DOTALL)
    assert not (tmp_path / 'out.html').exists()


def test_validation_data_that_is_gone_is_named(runs, tmp_path):
    run = shutil.copytree(runs[0][0], tmp_path / 'run')
    (file,) = run.glob('*.py')
    root = str(Path(runs[0][0]).parent)
    file.write_text(file.read_text().replace(root, str(tmp_path / 'gone')))
    with pytest.raises(FileNotFoundError, match='gone.*--no-images'):
        write_report([run], str(tmp_path / 'out.html'), device='cpu')


def test_runs_on_voc_are_compared_where_it_is_not(runs, tmp_path):
    run = shutil.copytree(runs[0][0], tmp_path / 'run')
    (file,) = run.glob('*.py')
    cfg = Config.fromfile(file)
    cfg.val_dataloader.dataset = dict(
        type='PascalVOCDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        ann_file='val.txt',
        pipeline=[],
    )
    cfg.dump(file)
    out = str(tmp_path / 'out.html')
    with pytest.raises(FileNotFoundError, match='not where.*--no-images'):
        write_report([run], out, device='cpu')
    write_report([run], out, draw_images=False)
    assert 'validated on 21 classes' in Path(out).read_text()


def test_folder_is_no_page_to_write(runs, tmp_path):
    with pytest.raises(ValueError, match='is a folder'):
        write_report([runs[0][0]], str(tmp_path), draw_images=False)


def test_run_that_was_never_validated_is_named(runs, tmp_path):
    run = shutil.copytree(runs[0][0], tmp_path / 'run')
    (file,) = run.glob('*.py')
    cfg = Config.fromfile(file)
    cfg.val_dataloader = None
    cfg.dump(str(file))
    with pytest.raises(ValueError, match='val_dataloader.*run'):
        write_report([run], str(tmp_path / 'out.html'), device='cpu')


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(runs=[]), 'got none'),
        (dict(names=['a']), 'Expected 2 names'),
        (dict(names=['a', 'a']), 'all different'),
        (dict(baseline='other'), "'other'. The runs are"),
        (dict(num_images=0), 'num_images must be at least 1'),
        (dict(max_images=0), 'max_images must be at least 1'),
    ],
)
def test_wrong_option_is_named(runs, tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        write_report(
            **{
                'runs': runs[0][:2],
                'out': str(tmp_path / 'out.html'),
                **kwargs,
            }
        )


# ------------------------------------------------------------------ rendered

MEASURE = """
<script>
addEventListener('load', () => {
  document.title = JSON.stringify({
    width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    images: [...document.images].map(i => {
      const r = i.getBoundingClientRect();
      return [i.alt, i.naturalWidth, r.left, r.top, r.right, r.bottom];
    })
  });
});
</script>
"""


def browse(page, profile, width, height, *arguments):
    """What a headless Chromium prints for a page."""
    browser = next(
        filter(
            None,
            map(
                shutil.which, ('chromium', 'chromium-browser', 'google-chrome')
            ),
        ),
        None,
    )
    if browser is None:
        pytest.skip(
            'No Chromium on PATH to render the page; on Debian: '
            'apt-get install chromium. That the page is sound HTML '
            'with whole pictures is tested without it.'
        )
    done = subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-quic',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-component-update',
            '--disable-sync',
            '--hide-scrollbars',
            f'--user-data-dir={profile}',
            f'--window-size={width},{height}',
            *arguments,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(page, tmp_path, width):
    """Where a browser puts things."""
    copy = tmp_path / 'measured.html'
    copy.write_text(page.read_text().replace('</body>', f'{MEASURE}</body>'))
    dom = browse(copy, tmp_path / 'profile', width, 900, '--dump-dom')
    title = re.search(r'<title>(.*?)</title>', dom, re.DOTALL)[1]
    return json.loads(
        title.replace('&amp;', '&').replace('&lt;', '<').replace('&gt;', '>')
    )


def near(picture, color, distance=40):
    """Number of pixels of about a color."""
    rgb = np.array(picture.convert('RGB'), float)
    return (np.linalg.norm(rgb - color, axis=-1) < distance).sum()


def test_browser_fits_the_page_into_a_narrow_window(page, tmp_path):
    layout = measure(page, tmp_path, 500)
    assert layout['width'] <= 500
    assert all(natural > 0 for _, natural, *_ in layout['images'])


def test_browser_shows_curves_and_errors(page, tmp_path):
    layout = measure(page, tmp_path, 1280)
    assert layout['width'] <= 1280
    lefts = {round(left) for _, _, left, *_ in layout['images']}
    assert len(lefts) >= 4  # side by side
    file = tmp_path / 'shot.png'
    browse(
        page,
        tmp_path / 'profile',
        1280,
        layout['height'],
        f'--screenshot={file}',
    )
    shot = Image.open(file)
    assert shot.size == (1280, layout['height'])
    shown = {alt: shot.crop(box) for alt, _, *box in layout['images']}
    errors = 0
    for alt, picture in shown.items():
        if alt.startswith('Errors of '):
            errors += np.array(
                [near(picture, color) for color in ERROR_COLORS.values()]
            )
        elif alt.startswith('loss over'):
            for i in range(3):
                rgb = bytes.fromhex(style(i).color[1:])
                assert near(picture, list(rgb)) > 20
    assert (errors > 20).sum() >= 2
    assert near(shot.crop((0, 0, 640, 120)), (26, 28, 30)) > 200  # the title
