"""The quickstart with a few images and iterations."""

import json
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from threading import Event

import psutil
import pytest

# The process of its own imports this file: OpenMMLab's packages, which print
# warnings, are imported where they are needed.

ROOT = Path(__file__).parents[1]


def shrink(quickstart, setattr=setattr, **options) -> None:
    """8 iterations instead of 400, with a checkpoint every other."""
    options = {
        'train_cfg.max_iters': 8,
        'train_cfg.val_interval': 8,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 2,
        **options,
    }
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

    setattr(quickstart, 'NUM_TRAIN', 8)
    setattr(quickstart, 'NUM_VAL', 6)
    setattr(quickstart, 'read_jobs', few_iterations)


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
    from mmseg.visualization import SegLocalVisualizer

    # A process of its own would begin without it.
    monkeypatch.setattr(SegLocalVisualizer, '_instance_dict', OrderedDict())
    old = signal.getsignal(signal.SIGTERM)
    yield quickstart
    signal.signal(signal.SIGTERM, old)


@pytest.fixture
def process(arguments):
    """It runs in a process of its own."""
    started = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys; sys.path.insert(0, "tools"); import quickstart; '
            'from tests.test_quickstart import shrink; shrink(quickstart); '
            'quickstart.main()',
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    started.kill()


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


def wait_for(condition, process, seconds=300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_was_stopped_goes_on_and_what_is_done_stays(
    process, tool, tmp_path, monkeypatch, capsys
):
    wait_for(
        lambda: len(list((tmp_path / 'work').glob('*/last_checkpoint'))) == 2,
        process,
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    assert errors.startswith('Stopped, with all trainings')
    assert not trainings(tmp_path)
    images = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / 'data').rglob('*.*')
    }
    stopped = logs(tmp_path)
    assert len(stopped) == 2

    shrink(tool, monkeypatch.setattr)
    tool.main()
    output, errors = capsys.readouterr()
    assert images == {path: path.stat().st_mtime_ns for path in images}
    resumed = [log for log in logs(tmp_path) if log not in stopped]
    assert resumed
    for log in resumed:  # not from the beginning
        first_line, *_ = log.read_text().splitlines()
        assert json.loads(first_line)['step'] > 2
    # The table and the paths come last, and nothing of mmengine's log.
    assert 'mmengine' not in output and not errors
    _, end = output.split('6 validation images')
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
    from mmbckd.analysis.runs import read_run

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
        monkeypatch.setattr,
        **{'train_dataloader.dataset.data_root': 'nowhere'},
    )
    monkeypatch.setattr(tool, 'ROWS', ('teacher', 'student'))
    with pytest.raises(SystemExit) as exit_:
        tool.main()
    errors = exit_.value.code
    assert errors.startswith('Failed:')
    assert 'StreetScenesDataset expected *.png images in nowhere' in errors
    assert 'CalledProcessError' not in errors
    (file,) = (tmp_path / 'work').glob('*/output.txt')
    assert f'The end of {file}, which has the rest' in errors
