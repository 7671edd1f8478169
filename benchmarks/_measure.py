"""What all benchmarks share: seconds, peak memory, the machine, and JSON."""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

# Called again and again: one forward and backward, or whatever is measured.
Run = Callable[[], object]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--threads', type=int, help="default: PyTorch's own choice"
    )
    parser.add_argument('--repeats', type=int, default=5)
    return parser


# ------------------------------------------------------------------ seconds


def seconds(
    runs: dict[str, Run], repeats: int, device: str = 'cpu'
) -> dict[str, dict[str, float]]:
    """Time of each, all of them in turn in this process.

    Args:
        runs (dict[str, Callable]): What to time, by name.
        repeats (int): Times that each is called, after once unmeasured.
        device (str): Device that has to have finished. Defaults to 'cpu'.

    Returns:
        dict[str, dict[str, float]]: ``seconds``, the median, its ``fastest``
        and ``slowest``, and ``cpu_seconds``, the median of the time that this
        process had a core, which a busy machine disturbs less.
    """
    wall = {name: [] for name in runs}
    cpu = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            gc.collect()
            synchronize(device)
            start = time.perf_counter(), time.process_time()
            run()
            synchronize(device)
            if repeat:
                wall[name].append(time.perf_counter() - start[0])
                cpu[name].append(time.process_time() - start[1])
    return {
        name: dict(
            seconds=statistics.median(wall[name]),
            fastest=min(wall[name]),
            slowest=max(wall[name]),
            cpu_seconds=statistics.median(cpu[name]),
        )
        for name in runs
    }


def synchronize(device: str) -> None:
    """Wait until the device is done."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------- memory


def peak_memory(
    build: Callable[..., Run],
    *args,
    small: tuple,
    device: str = 'cpu',
    calls: int = 3,
) -> int:
    """Bytes that a run needs at its peak, beside what ``build`` allocates.

    On a GPU these are PyTorch's allocations. On a CPU they are resident pages,
    hence all temporary buffers of all libraries, and a process of its own runs
    it, so that no memory that another run gave back is taken again unseen.

    Args:
        build (Callable): Returns the run, of a module that can be imported.
            It holds the run's inputs.
        *args: Its arguments.
        small (tuple): Other arguments, for a run that loads the code.
        device (str): Device of the run. Defaults to 'cpu'.
        calls (int): Calls among which the peak is. Defaults to 3.

    Returns:
        int: Bytes.
    """
    if torch.device(device).type == 'cuda':
        return _gpu_peak(build, args, device, calls)
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_peak_memory,
        args=(sender, torch.get_num_threads(), build, args, small, calls),
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(
            f'{build.__name__}{args} ended before its memory '
            'was known; see its own message above'
        ) from None
    finally:
        process.join()


def _gpu_peak(
    build: Callable[..., Run], args: tuple, device: str, calls: int
) -> int:
    run = build(*args)
    run()
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    for _ in range(calls):
        run()
    return torch.cuda.max_memory_allocated(device) - before


def _send_peak_memory(
    sender,
    num_threads: int,
    build: Callable[..., Run],
    args: tuple,
    small: tuple,
    calls: int,
) -> None:
    torch.set_num_threads(num_threads)
    build(*small)()
    run = build(*args)
    gc.collect()
    before = _reset_resident_peak()
    for _ in range(calls):
        run()
    sender.send(resident_memory('VmHWM') - before)


def _reset_resident_peak() -> int:
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    return resident_memory()


def resident_memory(field: str = 'VmRSS') -> int:
    """Bytes of a field of this process's status, Linux only."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'^{field}:\s*(\d+) kB', status, re.M)[1]) * 1024


# -------------------------------------------------------------- the machine


def environment(device: str = 'cpu') -> dict:
    """The machine, how busy it is, and the versions."""
    found = dict(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        load_average=os.getloadavg()[0],
        python=platform.python_version(),
    )
    for package in (
        'mmbckd',
        'torch',
        'triton',
        'numpy',
        'mmengine',
        'mmcv',
        'mmsegmentation',
        'mmdet',
        'mmrazor',
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if torch.device(device).type == 'cuda':
        found['gpu'] = torch.cuda.get_device_name(device)
        found['cuda'] = torch.version.cuda
    return found


def _cpu_model() -> str:
    model = re.search(
        r'^model name\s*: (.*)$', Path('/proc/cpuinfo').read_text(), re.M
    )
    return model[1] if model else platform.machine()


def matmul_rate(
    multiply: Callable = torch.mm,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
    size: int = 2048,
) -> float:
    """Operations a second in the product of two large matrices, the best of
    a few."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    timed = seconds({'product': lambda: multiply(a, b)}, 5, device)
    return 2 * size**3 / timed['product']['fastest']


# --------------------------------------------------------------------- JSON


def write_json(path: str, results: dict) -> None:
    """Write the results, creating the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(results, indent=2) + '\n')
    print(f'wrote {path}')
