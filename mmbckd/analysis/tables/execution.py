"""Run jobs, on this machine or by Slurm."""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from getpass import getuser
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import submitit
import torch
from filelock import lock_descriptor
from mim.utils import package2module
from submitit.helpers import Checkpointable, TorchDistributedEnvironment
from submitit.local.local import LocalJob

from .jobs import Job

# submitit ends a local job after so long: never.
_FOREVER = 60 * 24 * 365
# So often a job of Slurm may reach its limit of time, and goes on.
_TIMEOUTS = 1000
# Seconds between two looks into Slurm's queue, and for which a job that has
# left it is waited for: a shared file system may show its result later.
_LOOK = 10.0
_GRACE = 60.0


class Device(NamedTuple):
    """The place of one run at a time.

    Attributes:
        gpus (tuple[int]): The numbers of its GPUs, on Slurm those of each
            node; none for the CPU. Defaults to none.
        processes (int): Processes of a run, on Slurm those on each node; 0 for
            one that is not distributed. Defaults to 0.
        slurm (dict, optional): Options of ``sbatch`` by their names in
            submitit. Defaults to None: a run is on this machine.
    """

    gpus: tuple[int, ...] = ()
    processes: int = 0
    slurm: dict | None = None

    @property
    def batches(self) -> int:
        """Processes that each take a batch."""
        return max(1, self.processes) * (self.slurm or {}).get('nodes', 1)

    def command(self, job: Job) -> list[str]:
        """The command of a job on this device."""
        launcher = 'pytorch' if self.processes else 'none'
        command = job.command(launcher, self.processes or len(self.gpus))
        if self.processes and not self.gpus:
            command.append('env_cfg.dist_cfg.backend=gloo')
        return command

    def line(self, job: Job) -> str:
        """The command as typed into a shell."""
        where = 'CUDA_VISIBLE_DEVICES=' + ','.join(map(str, self.gpus))
        command = shlex.join(self.command(job))
        return command if self.slurm is not None else f'{where} {command}'

    def executor(self, job: Job) -> submitit.Executor:
        """What hands a job to this device."""
        folder = job.work_dir / 'submitit'
        if self.slurm is None:
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(
                timeout_min=_FOREVER,
                visible_gpus=self.gpus,
                gpus_per_node=len(self.gpus),
                stderr_to_stdout=True,
            )
            return executor
        executor = submitit.SlurmExecutor(folder, max_num_timeout=_TIMEOUTS)
        gpus = {'gpus_per_node': len(self.gpus)} if self.gpus else {}
        executor.update_parameters(
            **{
                'job_name': job.work_dir.name,
                'ntasks_per_node': 1,
                'stderr_to_stdout': True,
                'srun_args': ['--kill-on-bad-exit=1'],
                **gpus,
                **self.slurm,
            }
        )
        return executor


def visible_gpus(wanted: Sequence[int]) -> tuple[int, ...]:
    """GPUs of those that this process may use.

    Args:
        wanted (Sequence[int]): Their places among those, as PyTorch counts
            them.

    Returns:
        tuple[int]: Their numbers, as in ``CUDA_VISIBLE_DEVICES``.

    Raises:
        ValueError: If there are fewer, or if that names GPUs in another way.
    """
    count = torch.cuda.device_count()
    if any(gpu >= count for gpu in wanted):
        raise ValueError(
            f'Expected GPUs with numbers below {count}, as many as PyTorch '
            f'finds, but got {list(wanted)}. Name fewer, or more in '
            'CUDA_VISIBLE_DEVICES.'
        )
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        return tuple(wanted)
    gpus = [visible.split(',')[gpu] for gpu in wanted]
    if not all(gpu.isdecimal() for gpu in gpus):
        raise ValueError(
            'Expected CUDA_VISIBLE_DEVICES as numbers, such as 0,1, but got '
            f'{visible}. Name the GPUs by their numbers there.'
        )
    return tuple(map(int, gpus))


class JobRun(Checkpointable):
    """A run, as a function that submitit calls on each of its nodes.

    Slurm calls it again after it has stopped it, and it goes on from the last
    checkpoint.

    Args:
        job (Job): The job.
        device (Device): Where it runs.
        needed (bool): Whether others wait for its checkpoint, so that its log
            is not enough. Defaults to False.
    """

    def __init__(self, job: Job, device: Device, needed: bool = False) -> None:
        self.job = job
        self.device = device
        self.needed = needed

    def __call__(self) -> None:
        """Train, or test.

        Raises:
            RuntimeError: If another process has the work directory.
        """
        # DataLoader workers inherit the file: it stays locked by orphans.
        with open(self.job.work_dir / '.lock', 'w') as lock:
            if (
                submitit.JobEnvironment().global_rank == 0
                and not lock_descriptor(lock.fileno(), blocking=False)
            ):
                raise RuntimeError(
                    f'{self.job.work_dir} is in use by another process'
                )
            if self.job.log() is not None and (
                not self.needed or self.job.last_checkpoint.is_file()
            ):  # made while this one waited
                return
            self.job.write_config()
            program = script(self.device.command(self.job))
            if self.device.processes:
                program = self.distributed(program)
            sys.argv = program
            sys.path[0] = str(Path(program[0]).parent)
            try:
                runpy.run_path(program[0], run_name='__main__')
            except SystemExit as end:
                # Also submitit's own, when Slurm is to start it again.
                if end.code:
                    raise

    def distributed(self, program: list[str]) -> list[str]:
        """What starts all processes of this node."""
        nodes = TorchDistributedEnvironment()
        return [
            find_spec('torch.distributed.run').origin,
            f'--nproc_per_node={self.device.processes}',
            f'--nnodes={nodes.world_size}',
            f'--node_rank={nodes.rank}',
            f'--master_addr={nodes.master_addr}',
            f'--master_port={nodes.master_port}',
            *program,
        ]


def script(command: list[str]) -> list[str]:
    """What mim would start in each process, by its command.

    Args:
        command (list[str]): ``mim train PACKAGE CONFIG …``, or ``mim test``.

    Returns:
        list[str]: OpenMMLab's script and its arguments.
    """
    _, verb, package, config, *arguments = command
    gpus = arguments.index('--gpus')
    del arguments[gpus : gpus + 2]
    if verb == 'test':
        arguments.remove('--checkpoint')
    spec = find_spec(package2module(package))
    tools = Path(spec.origin).with_name('.mim') / 'tools'
    return [str(tools / f'{verb}.py'), config, *arguments]


def run_jobs(
    jobs: Sequence[Job],
    devices: Sequence[Device],
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Run jobs, teachers first.

    What a run prints goes to ``submitit`` in its work directory.

    Args:
        jobs (Sequence[Job]): The jobs.
        devices (Sequence[Device]): Where to run them, one on each at a time.
        say (Callable[[str], None], optional): Called with a message when a
            job starts and when it is done. Defaults to None: print it.

    Returns:
        list[str]: A message for each job that failed. All others were run.
    """
    say = say or partial(print, flush=True)
    # It stops a run, but what a shell has started in the background ignores
    # it, and so would the runs.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    needed = {job.teacher for job in jobs}
    teachers = [job for job in jobs if job.last_checkpoint in needed]
    failures = _run_stage(teachers, devices, say, needed=True)
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
    jobs: Sequence[Job],
    devices: Sequence[Device],
    say: Callable[[str], None],
    needed: bool = False,
) -> list[str]:
    waiting, free = deque(jobs), deque(devices)
    running: dict[submitit.Job, tuple[Job, Device]] = {}
    failures = []
    lost = _LostJobs()
    try:
        while waiting or running:
            while waiting and free:
                job, device = waiting.popleft(), free.popleft()
                say(f'{job.title}\n$ {device.line(job)}')
                job.work_dir.mkdir(parents=True, exist_ok=True)
                run = JobRun(job, device, needed)
                submitted = device.executor(job).submit(run)
                running[submitted] = job, device
            for submitted in [s for s in running if s.done()]:
                job, device = running.pop(submitted)
                free.append(device)
                if submitted.exception() is None and job.log() is not None:
                    say(f'{job.title}: done')
                else:
                    failures.append(_failure(job, submitted))
            for submitted in lost.among(running):
                job, device = running.pop(submitted)
                free.append(device)
                failures.append(
                    f'{job.title}: Slurm no longer has its job '
                    f'{submitted.job_id}, which has left no result. Was it '
                    'canceled? Run the table again to go on'
                    f'{_rest_of(submitted)}'
                )
            time.sleep(0.1)
        return failures
    finally:  # if this is interrupted, stop all runs
        for submitted in running:
            submitted.cancel(check=False)
        for submitted in running:
            if isinstance(submitted, LocalJob):
                submitted.wait()


def _failure(job: Job, submitted: submitit.Job) -> str:
    """Why a job failed."""
    error = submitted.exception()
    why = 'failed' if error is not None else 'made no final validation'
    return f'{job.title}: {why}{_rest_of(submitted)}'


def _rest_of(submitted: submitit.Job, lines: int = 15) -> str:
    """The last lines that a run has printed, indented."""
    output = submitted.task(0).paths.stdout
    if not output.is_file():
        return '. It has printed nothing.'
    text = output.read_text(encoding='utf-8', errors='replace').rstrip()
    end = '\n'.join(f'  {line}' for line in text.splitlines()[-lines:])
    return f'. The end of {output}, which has the rest:\n{end}'


class _LostJobs:
    """Jobs that have left Slurm's queue, and no result.

    Slurm's accounting knows how they ended. A cluster may have none, and then
    submitit would wait for them for ever.
    """

    def __init__(self) -> None:
        self.gone_since: dict[submitit.Job, float] = {}
        self.looked = time.monotonic()

    def among(self, running: Iterable[submitit.Job]) -> list[submitit.Job]:
        """Those that were gone for long enough."""
        jobs = [s for s in running if isinstance(s, submitit.SlurmJob)]
        now = time.monotonic()
        if not jobs or now - self.looked < _LOOK:
            return []
        self.looked = now
        queue = subprocess.run(
            ['squeue', '--noheader', '--format=%i', f'--user={getuser()}'],
            capture_output=True,
            text=True,
        )
        if queue.returncode:  # Slurm does not answer
            return []
        queued = set(queue.stdout.split())
        self.gone_since = {
            job: self.gone_since.get(job, now)
            for job in jobs
            if job.job_id not in queued
        }
        return [j for j, t in self.gone_since.items() if now - t >= _GRACE]
