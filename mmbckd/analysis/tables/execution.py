"""Run jobs, one at a time on each device."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from filelock import lock_descriptor
from mim.utils import PKG2MODULE

from .jobs import Job


class Device(NamedTuple):
    """The place of one run at a time.

    Attributes:
        visible (str, optional): ``CUDA_VISIBLE_DEVICES``, empty for the CPU;
            None leaves it as it is.
        launcher (str): 'none' or 'pytorch'. Defaults to 'none'.
        gpus (int): What mim gets as ``--gpus``. Defaults to 0.
    """

    visible: str | None
    launcher: str = 'none'
    gpus: int = 0

    def command(self, job: Job) -> list[str]:
        """The command of a job on this device."""
        command = job.command(self.launcher, self.gpus)
        if self.launcher != 'none' and self.visible == '':
            command.append('env_cfg.dist_cfg.backend=gloo')
        return command

    def line(self, job: Job) -> str:
        """The command as typed into a shell."""
        where = (
            []
            if self.visible is None
            else [f'CUDA_VISIBLE_DEVICES={self.visible}']
        )
        return ' '.join([*where, shlex.join(self.command(job))])


def run_jobs(
    jobs: Sequence[Job],
    devices: Sequence[Device],
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Run jobs, teachers first.

    The output of a run goes to ``output.txt`` in its work directory.

    Args:
        jobs (Sequence[Job]): The jobs.
        devices (Sequence[Device]): Where to run them, one on each at a time.
        say (Callable[[str], None], optional): Called with a message when a
            job starts and when it is done. Defaults to None: print it.

    Returns:
        list[str]: A message for each job that failed. All others were run.
    """
    say = say or partial(print, flush=True)
    needed = {job.teacher for job in jobs}
    teachers = [job for job in jobs if job.last_checkpoint in needed]
    failures = _run_stage(teachers, devices, say)
    students = []
    for job in jobs:
        if job in teachers:
            continue
        if job.teacher is None or job.teacher.is_file():
            students.append(job)
        else:
            failures.append(
                f'{job.title}: its teacher is missing, {job.teacher}'
            )
    return failures + _run_stage(students, devices, say)


def _run_stage(
    jobs: Sequence[Job], devices: Sequence[Device], say: Callable[[str], None]
) -> list[str]:
    if not jobs:
        return []
    free: Queue = Queue()
    for device in devices:
        free.put(device)
    processes: set[subprocess.Popen] = set()

    def run(job: Job) -> str | None:
        device = free.get()
        try:
            return _run(job, device, processes, say)
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(len(devices))
    futures = [pool.submit(run, job) for job in jobs]
    try:
        failures = [future.result() for future in as_completed(futures)]
        return [failure for failure in failures if failure is not None]
    finally:  # if this is interrupted, stop all runs
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            for process in list(processes):
                _stop(process)
            time.sleep(0.1)


def _run(
    job: Job, device: Device, processes: set, say: Callable[[str], None]
) -> str | None:
    """Run a job; return why it failed, or None."""
    job.work_dir.mkdir(parents=True, exist_ok=True)
    output = job.work_dir / 'output.txt'
    with open(job.work_dir / '.lock', 'w') as lock, open(output, 'ab') as out:
        # The run inherits the file: it stays locked while an orphan goes on.
        if not lock_descriptor(lock.fileno(), blocking=False):
            return f'{job.title}: {job.work_dir} is in use by another process'
        job.write_config()
        env = dict(os.environ)
        if device.visible is not None:
            env['CUDA_VISIBLE_DEVICES'] = device.visible
        say(f'{job.title}\n$ {device.line(job)}')
        process = subprocess.Popen(
            [sys.executable, *_program(device.command(job))],
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            # A group of its own, so that mim's children are stopped with it.
            start_new_session=True,
        )
        processes.add(process)
        code = process.wait()
        processes.discard(process)
    if code == 0 and job.log() is not None:
        say(f'{job.title}: done')
        return None
    why = f'ended with {code}' if code else 'made no final validation'
    return (
        f'{job.title}: {why}. The end of {output}, which has the rest:\n'
        f'{_end_of(output)}'
    )


def _program(command: list[str]) -> list[str]:
    """What Python is to run for a command of mim.

    For a training in one process it is the script that mim would start. Before
    that, mim starts it to read its ``-h``, which imports everything once more.
    """
    if command[:2] != ['mim', 'train'] or 'pytorch' in command:
        return ['-m', *command]
    _, _, package, *arguments = command
    gpus = arguments.index('--gpus')
    del arguments[gpus : gpus + 2]
    spec = find_spec(PKG2MODULE.get(package, package))
    script = Path(spec.origin).with_name('.mim') / 'tools' / 'train.py'
    return [str(script), *arguments]


def _end_of(file: Path, lines: int = 15) -> str:
    """The last lines that a run has printed, indented."""
    text = file.read_text(encoding='utf-8', errors='replace').rstrip()
    before, _, last = text.rpartition('Traceback (most recent call last):')
    # mim adds a traceback of its own to that of the run.
    if last.rpartition('\n')[2].startswith('subprocess.CalledProcessError'):
        text = before.rstrip()
    return '\n'.join(f'  {line}' for line in text.splitlines()[-lines:])


def _stop(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
