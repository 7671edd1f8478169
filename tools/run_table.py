"""Run what is missing in a table, and write the table.

A table is a short file as those in tables/, which go by their bare names too.
What has been run to its end is not run again, and what was stopped goes on
from its last checkpoint. The table is written as Markdown, CSV and JSON; rows
that have not been run say so.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import submitit
import torch

from mmbckd.analysis.cost import machine, model_cost
from mmbckd.analysis.runs import Log, copy_log, results_log
from mmbckd.analysis.step_cost import cost_key, read_costs
from mmbckd.analysis.tables import (
    plan,
    read_table,
    summarize,
    to_csv,
    to_markdown,
)
from mmbckd.analysis.tables.definition import (
    Row,
    Table,
    row_config,
    table_parser,
)
from mmbckd.analysis.tables.execution import (
    Device,
    run_jobs,
    visible_gpus,
)
from mmbckd.analysis.tables.jobs import (
    Job,
    described_work,
    gpu_hours_left,
    minutes_left,
)
from mmbckd.models.utils import is_distillation

#: Beside the configs, in a clone and where mim finds them.
COSTS = Path(__file__).resolve().parents[1] / 'configs' / 'step_costs.json'


def parse_args() -> argparse.Namespace:
    parser = table_parser(__doc__)
    parser.add_argument(
        '--out', help='folder of the table (default: tables in the --work-dir)'
    )
    parser.add_argument(
        '--gpus',
        help='GPUs to use of those that CUDA_VISIBLE_DEVICES names, such as '
        '0,1,2; with --launcher pytorch the number of processes of every run, '
        'with --slurm that of GPUs of each node (default: 0, or 1 of them)',
    )
    parser.add_argument(
        '--gpu-runs',
        type=int,
        default=1,
        help='runs at a time on each GPU, more than one for small models '
        '(default: 1)',
    )
    parser.add_argument(
        '--cpu',
        action='store_true',
        help='use no GPU (default: if there is none)',
    )
    parser.add_argument(
        '--cpu-runs',
        type=int,
        default=1,
        help='runs at a time on a CPU; OMP_NUM_THREADS says '
        'how many threads each has (default: 1)',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch'], default='none'
    )
    parser.add_argument(
        '--slurm',
        nargs='*',
        metavar='NAME=VALUE',
        help='hand the runs to Slurm, all at once, with these options of '
        'sbatch by their names in submitit, such as partition=gpu '
        'cpus_per_task=8 time=600 (minutes; default: a day); a run that '
        'reaches its limit of time is queued again and goes on',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only print the commands and the estimated work, with GPU hours '
        'for configs whose cost tools/step_cost.py has measured',
    )
    parser.add_argument(
        '--step-costs',
        default=COSTS,
        help='what tools/step_cost.py --out wrote (default: that of this '
        "package's configs)",
    )
    parser.add_argument(
        '--no-run',
        action='store_true',
        help='only write the table of what has been run',
    )
    parser.add_argument(
        '--results',
        help='folder to keep the logs of finished runs in; a run whose log '
        'is there is not run again, except for a teacher whose checkpoint is '
        'needed',
    )
    parser.add_argument(
        '--latency',
        type=float,
        nargs='?',
        const=2,
        default=0,
        metavar='SECONDS',
        help='measure the latency of students and teachers, for so long each '
        '(default: no; 2 if no number is given)',
    )
    return parser.parse_args()


def devices_of(args: argparse.Namespace) -> list[Device]:
    """The devices that the options name; on Slurm one that takes all runs."""
    if args.slurm is not None:
        return [slurm_device(args)]
    cpu = args.cpu or not torch.cuda.is_available()
    if args.launcher == 'pytorch':
        processes = number_of(args.gpus or '1', 'processes')
        gpus = () if cpu else visible_gpus(range(processes))
        return [Device(gpus, processes)]
    if cpu:
        if args.cpu_runs < 1:
            raise ValueError(
                f'Expected --cpu-runs of at least 1, but got {args.cpu_runs}.'
            )
        if args.gpus:
            raise ValueError(
                f'Expected no --gpus on the CPU, but got {args.gpus}'
                f'{"." if args.cpu else "; PyTorch finds no GPU."}'
            )
        return [Device()] * args.cpu_runs
    gpus = (args.gpus or '0').split(',')
    if not all(gpu.isdecimal() for gpu in gpus) or len(set(gpus)) < len(gpus):
        raise ValueError(
            'Expected --gpus as different numbers with commas, '
            f'such as 0,1,2, but got {args.gpus}.'
        )
    if args.gpu_runs < 1:
        raise ValueError(
            f'Expected --gpu-runs of at least 1, but got {args.gpu_runs}.'
        )
    numbers = visible_gpus([int(gpu) for gpu in gpus])
    return [Device((number,)) for number in numbers] * args.gpu_runs


def slurm_device(args: argparse.Namespace) -> Device:
    """What --slurm, --gpus and --launcher say of each run."""
    options: dict = {'time': 24 * 60}
    for option in args.slurm:
        name, equals, value = option.partition('=')
        if not name or not equals:
            raise ValueError(
                'Expected --slurm as NAME=VALUE, such as partition=gpu, but '
                f'got {option}.'
            )
        options[name] = int(value) if value.isdecimal() else value
    try:
        submitit.SlurmExecutor(args.work_dir).update_parameters(**options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "Expected a machine with Slurm's srun, and --slurm with options "
            f'of sbatch, but got {options}. {error}'
        ) from None
    number = number_of(args.gpus or '1', 'GPUs of each node')
    device = Device(
        () if args.cpu else tuple(range(number)),
        number if args.launcher == 'pytorch' else 0,
        options,
    )
    if args.launcher == 'none' and device.batches > 1:
        raise ValueError(
            'Expected --launcher pytorch for a run on several nodes, but got '
            'none. Add it, or leave nodes out of --slurm.'
        )
    return device


def number_of(number: str, what: str) -> int:
    """What --gpus says where it is a number."""
    if not number.isdecimal() or number == '0':
        raise ValueError(
            f'Expected the number of {what} as --gpus, with --launcher '
            f'pytorch or --slurm, but got {number}.'
        )
    return int(number)


def print_plan(
    jobs: list[Job], done: int, devices: list[Device], costs: dict[str, dict]
) -> None:
    """Print the commands of the missing runs, and how long they may take."""
    total, known = 0.0, 0
    hours = []
    for job in jobs:
        cost = costs.get(cost_key(job.config))
        if cost is None:
            spent = 'GPU hours not measured'
        else:
            hours.append(gpu_hours_left(job, cost, devices[0].batches))
            spent = f'{hours[-1]:.3g} GPU hours at {cost["tflops"]:g} TFLOP/s'
        minutes = minutes_left(job)
        about = 'time unknown' if minutes is None else f'{minutes:.0f} min'
        total += minutes or 0
        known += minutes is not None
        print(
            f'# {job.title}: {described_work(job, devices[0].batches)},'
            f' {about}, {spent}\n{devices[0].line(job)}'
        )
    print(f'# {done} runs done, {len(jobs)} to run')
    if known:
        print(
            f'# about {total / len(devices):.0f} min for {known} of them, '
            f'validations not counted'
        )
    if hours:
        print(f'# about {sum(hours):.3g} GPU hours for {len(hours)} of them')


def costs_of(table: Table, log: Callable, args: argparse.Namespace) -> dict:
    """Costs of the models of pairs that were run, and the machine's name.

    Costs kept with the results are taken from there, unless the latency is to
    be measured or they are those of another input size.
    """
    size = list(table.input_size)
    found = dict(costs={}, machine=None, input_size=size)
    file = Path(args.results or '') / 'costs.json'
    if args.results and file.is_file() and not args.latency:
        kept = json.loads(file.read_text())
        if kept.get('input_size') == size:
            found = kept
    device = 'cpu' if args.cpu or not torch.cuda.is_available() else 'cuda'
    if args.latency:
        found['machine'] = machine(device)
    for pair in table.pairs:
        if any(log(row, seed) for row in pair.rows for seed in row.seeds):
            for row in pair.rows:
                config = row_config(row)
                # A distillation costs what its student does.
                if row.name not in found['costs'] and not is_distillation(
                    config
                ):
                    found['costs'][row.name] = model_cost(
                        config, table.input_size, args.latency, device
                    )
    return found


def write_table(
    table: Table, args: argparse.Namespace, jobs: list[Job]
) -> Path:
    """Write the table of all finished runs; return its Markdown file."""
    if args.results:
        Path(args.results).mkdir(parents=True, exist_ok=True)
    by_name = {job.work_dir.name: job for job in jobs}

    def log(row: Row, seed: int) -> Log | None:
        found = by_name[row.run_name(seed)].log()
        if found is None and args.results:
            found = results_log(args.results, row.run_name(seed))
        return found

    if args.results:
        for pair in table.pairs:
            for row in pair.rows:
                for seed in row.seeds:
                    if (found := log(row, seed)) is not None:
                        copy_log(args.results, row.run_name(seed), found)
    costs = costs_of(table, log, args)
    summary = summarize(table, log, **costs)
    if args.results:
        (Path(args.results) / 'costs.json').write_text(
            json.dumps(costs, indent=2) + '\n'
        )
    out = Path(args.out or Path(args.work_dir) / 'tables')
    out.mkdir(parents=True, exist_ok=True)
    file = out / f'{table.name}.md'
    lines = [f'# {table.title}', '', *to_markdown(summary), '']
    file.write_text('\n'.join(lines), encoding='utf-8')
    file.with_suffix('.csv').write_text(to_csv(summary), encoding='utf-8')
    file.with_suffix('.json').write_text(
        json.dumps(summary, indent=2, ensure_ascii=False) + '\n',
        encoding='utf-8',
    )
    return file


def main() -> None:
    args = parse_args()
    # SIGTERM stops the runs as SIGINT does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        table = read_table(args.table)
        devices = devices_of(args)
        jobs = plan(table, args.work_dir)
        missing = [
            job
            for job in jobs
            if job.log() is None
            and not (
                args.results and results_log(args.results, job.work_dir.name)
            )
        ]
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'run_table.py: {error}')
    # A teacher whose log alone was kept has to be trained again.
    needed = {job.teacher for job in missing}
    missing = [
        job
        for job in jobs
        if job in missing
        or (job.last_checkpoint in needed and not job.last_checkpoint.exists())
    ]
    if args.dry_run:
        costs = read_costs(args.step_costs)
        print_plan(missing, len(jobs) - len(missing), devices, costs)
        return
    try:
        if args.slurm is not None:  # which knows best when to start them
            devices *= len(missing)
        failures = [] if args.no_run else run_jobs(missing, devices)
    except KeyboardInterrupt:
        sys.exit('Stopped, with all runs. The same command resumes them.')
    file = write_table(table, args, jobs)
    print(
        f'{file.read_text(encoding="utf-8")}\nThe table is {file}, and .csv '
        'and .json beside it.'
    )
    if failures:
        sys.exit('\n'.join(['Failed:', *failures]))


if __name__ == '__main__':
    main()
