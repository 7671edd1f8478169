"""Runs that are killed and resumed, full disks, folders that take nothing."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmbckd.engine import export_student_checkpoint
from tests.processes import run_side_by_side
from tests.runs import config as run_config
from tests.runs import names, write_images

FEATURE = dict(type='ModuleInputs', source='decode_head.conv_seg')
ITERS = 6
# Where a run is killed, by what, its last checkpoint, and what it was writing.
POINTS = dict(
    training=(signal.SIGKILL, 'iter_2.pth', None),
    save=(signal.SIGXFSZ, 'iter_2.pth', 'iter_4.pth'),
    export=(signal.SIGXFSZ, 'iter_4.pth', 'iter_4_student.pth'),
)


def config(data: Path, work_dir: Path, **kwargs) -> Config:
    """Both terms, dropout, momentum; saved and validated every 2 of 6."""
    cfg = run_config(data, work_dir=str(work_dir), **kwargs)
    cfg.model.distiller.context = dict(student=FEATURE, teacher=FEATURE)
    cfg.model.architecture.decode_head.dropout_ratio = 0.5
    cfg.optim_wrapper.optimizer.momentum = 0.9
    cfg.param_scheduler = [
        dict(type='PolyLR', power=0.9, begin=0, end=ITERS, by_epoch=False)
    ]
    cfg.train_cfg.max_iters = ITERS
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.update(interval=2, save_best=None)
    return cfg


def limit_files(size: int) -> None:
    """The kernel kills this process when it writes beyond ``size``."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class Killer(Hook):
    """Ends the process in its fourth iteration, at a chosen point."""

    priority = 95  # between CheckpointHook and StudentCheckpointHook

    def __init__(self, point: str) -> None:
        self.point = point

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        if self.point == 'training' and runner.iter == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._limit(runner, 'save', 'iter_2.pth')

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self._limit(runner, 'export', 'iter_2_student.pth')

    def _limit(self, runner, point: str, like: str) -> None:
        if self.point == point and runner.iter == 3:
            limit_files((Path(runner.work_dir) / like).stat().st_size // 2)


def run_until_killed(data: Path, root: Path) -> None:
    """A run in a process of its own for each point; print how it ended."""
    init_default_scope('mmseg')
    for point in POINTS:
        child = os.fork()
        if not child:
            runner = Runner.from_cfg(config(data, root / point))
            runner.register_hook(Killer(point))
            runner.train()
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print('ended', point, ended, flush=True)


def logged(work_dir: Path) -> dict:
    """Every figure of a run by step; what a resumed run made again counts."""
    figures = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            for clock in ('time', 'data_time', 'memory'):
                record.pop(clock, None)
            kind = 'train' if 'loss' in record else 'val'
            figures[kind, record['step']] = record
    return figures


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Sums split over another number of threads differ in the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_images(root)
    return root


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory) -> Path:
    """The work directory of a run that nothing interrupted."""
    work_dir = tmp_path_factory.mktemp('whole')
    init_default_scope('mmseg')
    Runner.from_cfg(config(data, work_dir)).train()
    return work_dir


@pytest.fixture(scope='module')
def killed(data, tmp_path_factory) -> tuple[Path, str]:
    """Where the killed runs are, and what their processes said."""
    root = tmp_path_factory.mktemp('killed')
    (said,) = run_side_by_side(run_until_killed, [(data, root)], root)
    return root, said


@pytest.mark.parametrize('point', POINTS)
def test_killed_run_ends_on_the_figures_of_an_uninterrupted_one(
    point, killed, whole, data
):
    ended_by, last, leftover = POINTS[point]
    root, said = killed
    assert f'ended {point} {-ended_by}\n' in said, said[-2000:]
    work_dir = root / point
    assert (work_dir / 'last_checkpoint').read_text().endswith(f'/{last}')
    if leftover is not None:  # it did end in the middle of writing
        assert (work_dir / f'{leftover}.tmp').stat().st_size > 1000
        assert not (work_dir / leftover).exists()
    for file in work_dir.glob('*.pth'):
        torch.load(file, map_location='cpu')

    Runner.from_cfg(config(data, work_dir, resume=True)).train()
    expected = logged(whole)
    assert len(expected) == ITERS + ITERS // 2
    if last == 'iter_4.pth':
        # mmengine saves before it validates: what was resumed from after
        # the one and before the other is not validated any more.
        del expected['val', 4]
    terms = [k for k in expected['train', 1] if k.startswith('distill.')]
    assert len(terms) == 2
    assert logged(work_dir) == expected
    assert names(work_dir, '*.pth*') == names(whole, '*.pth*')
    for name in ('iter_6.pth', 'iter_6_student.pth'):
        old, new = (
            torch.load(folder / name)['state_dict']
            for folder in (whole, work_dir)
        )
        assert list(old) == list(new)
        assert all(torch.equal(old[k], new[k]) for k in old)


# ------------------------------------------------------------------ writing


@pytest.fixture
def full_disk():
    """No file may grow beyond 8 kB: a write that fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_old_file_or_none(full_disk, tmp_path):
    path = tmp_path / 'a.pth'
    backend = get_file_backend(str(path))
    for old in (None, b'old'):
        if old is not None:
            backend.put(old, str(path))
        with pytest.raises(OSError) as error:
            backend.put(b'x' * 100_000, str(path))
        assert error.value.errno == errno.EFBIG
        for words in (str(path), 'cannot be written', '--resume'):
            assert words in str(error.value)
        assert names(tmp_path, '*') == ([] if old is None else ['a.pth'])
        assert old is None or path.read_bytes() == old


def test_checkpoint_that_meets_a_full_disk_ends_the_run(
    data, tmp_path, monkeypatch
):
    """The write of the second checkpoint fails; the first can be resumed."""
    replace = os.replace

    def fail(source, target):
        if str(target).endswith('iter_4.pth'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(
        OSError, match='iter_4.pth cannot be written: No space left on device'
    ):
        Runner.from_cfg(config(data, tmp_path)).train()
    assert names(tmp_path, '*.pth*') == ['iter_2.pth', 'iter_2_student.pth']
    monkeypatch.undo()
    Runner.from_cfg(config(data, tmp_path, resume=True)).train()
    assert (tmp_path / 'iter_6_student.pth').exists()


def test_student_that_meets_a_full_disk_is_not_left_in_pieces(
    whole, tmp_path, full_disk
):
    out = tmp_path / 'student.pth'
    with pytest.raises(OSError, match='student.pth cannot be written'):
        export_student_checkpoint(str(whole / 'iter_6.pth'), str(out))
    assert names(tmp_path, '*') == []


def test_folder_that_takes_no_files_is_named(tmp_path, monkeypatch):
    """A path below a file, and a file system that is mounted read-only."""
    (tmp_path / 'file').touch()
    path = str(tmp_path / 'file' / 'a.pth')
    with pytest.raises(OSError, match='file/a.pth cannot be written'):
        get_file_backend(path).put(b'x', path)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr('builtins.open', refuse)
    path = str(tmp_path / 'a.pth')
    with pytest.raises(OSError, match='a.pth cannot be written: Read-only'):
        get_file_backend(path).put(b'x', path)


def test_work_directory_that_cannot_be_made_ends_the_run(data, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match='file/run'):
        Runner.from_cfg(config(data, tmp_path / 'file' / 'run'))


def test_devices_are_written_to_as_ever():
    get_file_backend('/dev/null').put(b'x', '/dev/null')
    assert Path('/dev/null').is_char_device()


def test_missing_folders_are_made_and_links_followed(tmp_path):
    path = tmp_path / 'a' / 'b.pth'
    get_file_backend(str(path)).put(b'old', path)
    (tmp_path / 'link.pth').symlink_to(path)
    get_file_backend(str(path)).put(b'new', str(tmp_path / 'link.pth'))
    assert path.read_bytes() == b'new'
    assert (tmp_path / 'link.pth').is_symlink()
