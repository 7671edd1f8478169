"""The quickstart with a few images and iterations."""

import json
import signal
import sys
from collections import OrderedDict
from pathlib import Path
from threading import Event, main_thread

import psutil
import pytest
from mmseg.visualization import SegLocalVisualizer

from mmbckd.analysis.runs import read_run

ROOT = Path(__file__).parents[1]


def shrink(quickstart, monkeypatch, **options) -> None:
    """8 iterations instead of 400 and 2 images instead of 8 in each, with a
    checkpoint in the middle."""
    options = {
        'train_cfg.max_iters': 8,
        'train_cfg.val_interval': 8,
        'train_dataloader.batch_size': 2,
        'default_hooks.checkpoint.interval': 4,
        'default_hooks.logger.interval': 2,
        **options,
    }
    for name in ('train_dataloader', 'val_dataloader'):
        options[f'{name}.num_workers'] = 0
        options[f'{name}.persistent_workers'] = False
    read_jobs = quickstart.read_jobs

    def few_iterations(work_dir):
        return [
            job
            if job.row.checkpoint
            else job._replace(
                row=job.row._replace(options=tuple(options.items()))
            )
            for job in read_jobs(work_dir)
        ]

    monkeypatch.setattr(quickstart, 'NUM_TRAIN', 4)
    monkeypatch.setattr(quickstart, 'NUM_VAL', 3)
    monkeypatch.setattr(quickstart, 'read_jobs', few_iterations)


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """Its arguments; what is left of it ends with the test."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    yield [
        *('--work-dir', str(tmp_path / 'work')),
        *('--data-root', str(tmp_path / 'data')),
    ]
    for process in trainings(tmp_path):
        process.kill()


@pytest.fixture
def tool(arguments, monkeypatch):
    """Its module, to be run in this process."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('MMBCKD_STREET_SCENES', arguments[-1])
    monkeypatch.setattr(sys, 'argv', ['quickstart.py', *arguments])
    import quickstart

    # A process of its own would begin without it.
    monkeypatch.setattr(SegLocalVisualizer, '_instance_dict', OrderedDict())
    old = signal.getsignal(signal.SIGTERM)
    yield quickstart
    signal.signal(signal.SIGTERM, old)


def trainings(tmp_path) -> list:
    """The processes that run in its work directory."""
    found = []
    for process in psutil.process_iter(['cmdline']):
        command = ' '.join(process.info['cmdline'] or [])
        if (
            'mim' in command
            and str(tmp_path) in command
            and process.status() != psutil.STATUS_ZOMBIE
        ):
            found.append(process)
    return found


def logs(tmp_path) -> list:
    """A JSON log for each time that a training was started."""
    return sorted((tmp_path / 'work').glob('*_1xb8-400_*/*/vis_data/2*.json'))


def test_what_was_stopped_goes_on_and_what_is_done_stays(
    tool, tmp_path, monkeypatch, capsys
):
    shrink(tool, monkeypatch)
    stops = []

    def stop_both_trainings_half_way() -> None:
        saved = list((tmp_path / 'work').glob('*/last_checkpoint'))
        if len(saved) == 2 and not stops:
            stops.append(signal.SIGTERM)
            signal.pthread_kill(main_thread().ident, signal.SIGTERM)

    with (
        tool.repeatedly(stop_both_trainings_half_way, 0.1),
        pytest.raises(SystemExit) as exit_,
    ):
        tool.main()
    assert exit_.value.code.startswith('Stopped, with all trainings')
    assert not trainings(tmp_path)
    images = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / 'data').rglob('*.*')
    }
    stopped = logs(tmp_path)
    assert len(stopped) == 2

    capsys.readouterr()
    tool.main()
    output, errors = capsys.readouterr()
    assert images == {path: path.stat().st_mtime_ns for path in images}
    resumed = [log for log in logs(tmp_path) if log not in stopped]
    assert resumed
    for log in resumed:  # not from the beginning
        first_line, *_ = log.read_text().splitlines()
        assert json.loads(first_line)['step'] > 4
    # The table and the paths come last, and nothing of mmengine's log.
    assert 'mmengine' not in output and not errors
    _, end = output.split('3 validation images')
    metrics = json.loads((tmp_path / 'work/quickstart.json').read_text())
    assert list(metrics) == ['teacher', 'student', 'BCKD + CWD']
    for values in metrics.values():
        assert f'{values["mBIoU"]:.2f}' in end
    for name in ('quickstart.png', 'report.html'):
        assert (tmp_path / 'work' / name).is_file()
        assert name in end

    before = logs(tmp_path)
    tool.main()
    assert logs(tmp_path) == before
    assert (
        json.loads((tmp_path / 'work/quickstart.json').read_text()) == metrics
    )


def test_progress_goes_on_after_a_file_was_read_half_written(tool, tmp_path):
    """A config that is being written cannot be read, or says no seed."""
    log = tmp_path / '20260101_000000' / 'vis_data' / '20260101_000000.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.0, "iter": 7, "step": 7}\n')
    config = tmp_path / 'config.py'
    config.write_text("train_cfg = dict(max_iters=8\nmodel = dict(type='A')")
    failed, seen = Event(), Event()

    def show() -> None:
        try:
            assert read_run(str(tmp_path), '').progress == (7, 8)
        except ValueError:
            failed.set()
            raise
        seen.set()

    with tool.repeatedly(show, 0.01):
        assert failed.wait(60)
        config.write_text('train_cfg = dict(max_iters=8)\n')
        assert seen.wait(60)


def test_failed_training_shows_the_end_of_its_output(
    tool, tmp_path, monkeypatch
):
    shrink(
        tool,
        monkeypatch,
        **{'train_dataloader.dataset.data_root': 'nowhere'},
    )
    monkeypatch.setattr(tool, 'ROWS', ('teacher', 'student'))
    with pytest.raises(SystemExit) as exit_:
        tool.main()
    errors = exit_.value.code
    assert errors.startswith('Failed:')
    assert 'StreetScenesDataset expected *.png images in nowhere' in errors
    assert 'CalledProcessError' not in errors
    (file,) = (tmp_path / 'work').glob('*/submitit/*_log.out')
    assert f'The end of {file}, which has the rest' in errors
