"""Processes of their own, which begin with everything imported."""

import multiprocessing
import os
import traceback
from pathlib import Path

# They are forked from a process that has imported this and run nothing: to
# import it takes longer than most of what they do.
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['mmbckd', 'mmseg.datasets', 'mmbckd.deploy'])


def run_side_by_side(work, arguments, folder: Path) -> list[str]:
    """Call a function in one process for each tuple of arguments.

    Returns:
        list[str]: What each process printed.
    """
    files = [folder / f'output_{i}.txt' for i in range(len(arguments))]
    processes = [
        _CONTEXT.Process(target=_run, args=(work, each, file))
        for each, file in zip(arguments, files)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        process.kill()
        process.join()
    said = [file.read_text() for file in files]
    assert all(process.exitcode == 0 for process in processes), said
    return said


def _run(work, arguments, file: Path) -> None:
    import torch

    torch.set_num_threads(1)
    with open(file, 'w') as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc()
        raise
