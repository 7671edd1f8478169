"""How the runs of a table are made, on this machine and by Slurm."""

import fcntl
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbckd.analysis.runs import read_log
from mmbckd.analysis.tables import execution, plan, read_table
from mmbckd.analysis.tables.execution import Device, JobRun, run_jobs
from mmbckd.analysis.tables.jobs import minutes_left
from mmbckd.stack import distribution_of
from tests.toy_table import FINISHED, leave_training

ROOT = Path(__file__).parents[2]
CPU = Device()


class Killed(Hook):
    """Kills a run in its third iteration."""

    def after_train_iter(self, runner, batch_idx, *args, **kwargs):
        if runner.iter == 2:
            raise KeyboardInterrupt


def test_killed_run_goes_on_and_a_finished_one_is_not_run_again(
    toy, monkeypatch
):
    monkeypatch.chdir(toy.parent)
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import run_table

    table = read_table(toy)
    first, second = plan(table, 'work_dirs')
    assert first.work_dir != second.work_dir
    cfg = Config.fromfile(toy.with_suffix('.py'))
    cfg.work_dir = str(first.work_dir)
    cfg.randomness = dict(seed=0)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Killed())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert first.log() is None and '--resume' in first.command()
    assert minutes_left(first) > 0
    assert '--resume' not in second.command()

    assert run_jobs([first], [Device(processes=2)]) == []
    log = first.log()
    assert [record['iter'] for record in log.train] == [1, 2, 3, 4]
    assert log.val[-1]['iter'] == 4 and log.metrics['mIoU'] >= 0
    assert 'resumed epoch: 0, iter: 2' in said(first)
    assert 'randomness.seed=0' in ' '.join(first.command())

    # The tool runs but the other seed.
    ran = []
    monkeypatch.setattr(
        run_table, 'run_jobs', lambda jobs, _: ran.extend(jobs) or []
    )
    argv = ['run_table.py', str(toy), '--cpu', '--results', 'kept']
    monkeypatch.setattr(sys, 'argv', argv)
    run_table.main()
    assert ran == [second]
    written = Path('work_dirs/tables/toy.md').read_text()
    assert '1 of 2' in written and 'parameters' in written
    assert read_log([Path('kept/toy.json')]) == log
    # A log that was kept is as good as the work directory.
    first.work_dir.rename('elsewhere')
    ran.clear()
    run_table.main()
    assert ran == [second]
    assert Path('work_dirs/tables/toy.md').read_text() == written


def said(job) -> str:
    """What a run has printed."""
    (output,) = job.work_dir.glob('submitit/*_log.out')
    return output.read_text()


@pytest.mark.parametrize(
    'package', map(distribution_of, ['mmrazor', 'mmseg', 'mmdet'])
)
@pytest.mark.parametrize('verb', ['train', 'test'])
def test_run_starts_what_mim_would_start(toy, monkeypatch, verb, package):
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'runs')[0]
    if verb == 'test':
        job.work_dir.mkdir(parents=True)
        job.last_checkpoint.touch()
    _, planned, _, *arguments = job.command()
    assert planned == verb
    mim = importlib.import_module(f'mim.commands.{verb}')
    monkeypatch.setattr(mim.subprocess, 'check_output', lambda command: b'')
    monkeypatch.setattr(
        mim.subprocess,
        'check_call',
        lambda command, **_: started.append(command) or 0,
    )
    started = []
    mim.cli.main([package, *arguments], standalone_mode=False)
    program = execution.script(['mim', verb, package, *arguments])
    assert started == [[sys.executable, *program]]


def test_failed_run_is_told_and_the_others_run(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    failing, working = plan(read_table(toy), 'work_dirs')
    broken = (('train_dataloader.dataset.data_root', 'nowhere'),)
    failing = failing._replace(row=failing.row._replace(options=broken))
    (failure,) = run_jobs([failing, working], [CPU, CPU])
    assert failure.startswith(f'{failing.title}: failed. The end of ')
    assert 'nowhere' in failure and 'nowhere' in said(failing)
    assert working.log() is not None


def test_teacher_whose_checkpoint_is_gone_is_trained_again(toy, monkeypatch):
    """Its log says that it is finished."""
    monkeypatch.chdir(toy.parent)
    teacher, student = plan(read_table(toy), 'work_dirs')
    leave_training(teacher, FINISHED, dict(randomness=dict(seed=0)))
    (teacher.work_dir / 'last_checkpoint').write_text(
        str(teacher.last_checkpoint)
    )
    assert teacher.log() is not None and '--resume' not in teacher.command()
    student = student._replace(teacher=teacher.last_checkpoint)
    (failure,) = run_jobs([teacher, student], [CPU])
    assert failure.startswith(f'{student.title}: failed')  # it is no distiller
    assert teacher.last_checkpoint.is_file()


def test_stopped_runner_leaves_no_run_behind(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    jobs = plan(read_table(toy), 'work_dirs')
    sleep = time.sleep

    def stop(seconds):
        started = (jobs[0].work_dir / '.lock').exists()
        if started and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        sleep(seconds)

    stopped = []
    monkeypatch.setattr(time, 'sleep', stop)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, [CPU])
    with open(jobs[0].work_dir / '.lock') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert jobs[0].log() is None
    assert not jobs[1].work_dir.exists()


def test_run_that_another_process_makes_is_left_to_it(toy, monkeypatch):
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'work_dirs')[0]
    job.work_dir.mkdir(parents=True)
    environment = SimpleNamespace(global_rank=0)
    monkeypatch.setattr('submitit.JobEnvironment', lambda: environment)
    with open(job.work_dir / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match='in use by another process'):
            JobRun(job, CPU)()


# --------------------------------------------------------------------- Slurm

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def slurm(monkeypatch):
    """A Slurm of this machine alone."""
    daemons = 'munged', 'slurmctld', 'slurmd'
    if not all(map(shutil.which, daemons)) or os.getuid() != 0:
        pytest.skip(
            'no Slurm: apt-get install slurmctld slurmd slurm-client munge, '
            'and be root'
        )
    folder = Path(tempfile.mkdtemp())  # the path of a socket has to be short
    with socket.socket() as first, socket.socket() as second:
        first.bind(('127.0.0.1', 0))
        second.bind(('127.0.0.1', 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    conf = folder / 'slurm.conf'
    conf.write_text(
        SLURM_CONF.format(
            folder=folder,
            host=socket.gethostname().partition('.')[0],
            ports=ports,
            cpus=os.cpu_count(),
        )
    )
    monkeypatch.setenv('SLURM_CONF', str(conf))
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    munge = dict(
        key_file=key,
        socket=folder / 'munge.sock',
        pid_file=folder / 'munged.pid',
        log_file=folder / 'munged.log',
        seed_file=folder / 'munged.seed',
    )
    options = {
        'munged': ['-F', '--force']
        + [f'--{key.replace("_", "-")}={file}' for key, file in munge.items()],
        'slurmctld': ['-D'],
        'slurmd': ['-D'],
    }
    log = folder / 'daemons.log'
    started = []
    try:
        for daemon in daemons:
            with open(log, 'ab') as out:
                started.append(
                    subprocess.Popen(
                        [daemon, *options[daemon]], stdout=out, stderr=out
                    )
                )
        until = time.monotonic() + 120
        while output('sinfo', '-h', '-o', '%T').strip() != 'idle':
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield
        until = time.monotonic() + 60
        while output('squeue', '-h') and time.monotonic() < until:
            time.sleep(0.2)  # a job outlasts its result by a moment
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def output(*command) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout


TIME_LIMIT = """
import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class TimeLimit(Hook):

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 2 and 'SLURM_RESTART_COUNT' not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR2)
"""


def test_run_at_its_limit_of_time_is_queued_again_by_slurm_and_goes_on(
    toy, slurm, monkeypatch
):
    """Slurm would send the signal of this hook."""
    monkeypatch.chdir(toy.parent)
    Path('time_limit.py').write_text(TIME_LIMIT)
    monkeypatch.setenv('PYTHONPATH', str(toy.parent))
    monkeypatch.syspath_prepend(str(toy.parent))
    config = toy.with_suffix('.py')
    cfg = Config.fromfile(config)
    cfg.custom_imports.imports.append('time_limit')
    cfg.custom_hooks = [dict(type='TimeLimit')]
    cfg.dump(config)
    job = plan(read_table(toy), 'work_dirs')[0]
    sleep = time.sleep

    def sleep_and_let_start(seconds):
        """Slurm waits for two minutes before it starts a job again."""
        sleep(seconds)
        for line in output('squeue', '-h', '-o', '%i %r').splitlines():
            number, reason = line.split()
            if reason == 'BeginTime':
                # At once, slurmd may take it for the one that was stopped.
                sleep(3)
                output(
                    'scontrol', 'update', f'JobId={number}', 'StartTime=now'
                )

    monkeypatch.setattr(execution.time, 'sleep', sleep_and_let_start)
    assert run_jobs([job], [Device(slurm=dict(time=10))]) == []
    assert [record['iter'] for record in job.log().train] == [1, 2, 3, 4]
    assert 'Requeued job' in said(job)
    assert 'resumed epoch: 0, iter: 2' in said(job)


def test_run_of_several_processes_on_slurm(toy, slurm, monkeypatch):
    monkeypatch.chdir(toy.parent)
    job = plan(read_table(toy), 'work_dirs')[0]
    device = Device(processes=2, slurm=dict(time=10))
    assert run_jobs([job], [device]) == []
    assert job.log().val[-1]['iter'] == 4
    # Two images are one for each process.
    assert '[1/1]' in said(job) and '[1/2]' not in said(job)


def test_run_whose_job_slurm_has_dropped_is_given_up(toy, slurm, monkeypatch):
    """No accounting says that it was canceled."""
    monkeypatch.chdir(toy.parent)
    monkeypatch.setattr(execution, '_LOOK', 0.2)
    monkeypatch.setattr(execution, '_GRACE', 1.0)
    job = plan(read_table(toy), 'work_dirs')[0]
    later = dict(time=10, additional_parameters=dict(begin='now+1hour'))
    sleep = time.sleep

    def sleep_and_cancel(seconds):
        sleep(seconds)
        for number in output('squeue', '-h', '-o', '%i').split():
            output('scancel', number)

    monkeypatch.setattr(execution.time, 'sleep', sleep_and_cancel)
    (failure,) = run_jobs([job], [Device(slurm=later)])
    assert failure.startswith(f'{job.title}: Slurm no longer has its job ')
    assert failure.endswith('It has printed nothing.')
