"""The mathematics where OpenMMLab is missing, broken or too old."""

import os
import subprocess
import sys
from ast import literal_eval
from functools import cache
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPENMMLAB = ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmrazor', 'mim')
# A finder before all others: to every import these packages do not exist.
BLOCK = """
import importlib.metadata, sys

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Blocked)
for name in list(sys.modules):
    if name.partition('.')[0] in {names}:
        del sys.modules[name]
"""
MISSING = """
def not_found(name):
    raise importlib.metadata.PackageNotFoundError(name)

importlib.metadata.version = not_found
"""
OLD_MMRAZOR = """
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = (
    lambda name: '0.3.1' if name == 'mmrazor' else version(name))
"""
BLOCKED = BLOCK.format(names=OPENMMLAB)
ENVIRONMENTS = dict(
    broken=BLOCKED,
    missing=BLOCKED + MISSING,
    # `packaging` reads the versions, and comes with OpenMMLab only.
    nothing_else=BLOCK.format(
        names=(*OPENMMLAB, 'packaging', 'cv2', 'scipy', 'pycocotools')
    )
    + MISSING,
    old_version=OLD_MMRAZOR,
)
USE = """
import torch
loss = relation_kl(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
assert loss.item() == 0, loss
"""


METRICS = """
import numpy as np
from mmbckd.evaluation.functional import boundary_counts
square = np.eye(4, dtype=int)
counts = boundary_counts(square, square, 2)
assert (counts.biou[0] == counts.biou[1]).all()
"""
LOSSES = [
    'from mmbckd.functional import relation_kl',
    'from mmbckd.functional.context_relation import relation_kl',
    'import mmbckd.functional; relation_kl = mmbckd.functional.relation_kl',
    'import importlib; relation_kl = importlib.import_module('
    '"mmbckd.functional").relation_kl',
]
ALL_ELSE = [
    'import mmbckd',
    'import mmbckd.models',
    'import mmbckd.evaluation',
    'from mmbckd import engine',
    'import importlib; importlib.import_module("mmbckd")',
    'import mmbckd.functional; mmbckd.models',
    'import mmbckd.functional; '
    'from mmbckd.evaluation import BoundaryIoUMetric',
    'from mmbckd.functional import relation_kl; from mmbckd import models',
]
# Each statement runs in a fork of a Python that has imported nothing of
# mmbckd yet: PyTorch, which takes seconds, is imported only once.
FORKS = """
import os, sys, tempfile, traceback
import torch
for environment, code in {cases}:
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            try:
                exec(environment, {{}})
                exec(code, {{'__name__': '__main__'}})
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stderr.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        print(repr(((environment, code), (status, said.read().decode()))))
"""


def python(code, **environ):
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        env=dict(os.environ, PYTHONPATH=str(ROOT), **environ),
        cwd='/',
        capture_output=True,
        text=True,
    )


@cache
def all_outcomes():
    """Exit status and stderr of all statements in all environments."""
    codes = [METRICS, *(code + USE for code in LOSSES), *ALL_ELSE]
    cases = [*product(ENVIRONMENTS.values(), codes)]
    done = python(FORKS.format(cases=cases))
    assert done.returncode == 0, done.stderr
    return dict(map(literal_eval, done.stdout.splitlines()))


def outcome(environment, statement):
    return all_outcomes()[ENVIRONMENTS[environment], statement]


@pytest.mark.parametrize('environment', ENVIRONMENTS)
@pytest.mark.parametrize('statement', LOSSES)
def test_losses_work(environment, statement):
    assert outcome(environment, statement + USE) == (0, '')


@pytest.mark.parametrize('environment', ['broken', 'missing', 'old_version'])
def test_metrics_work(environment):
    assert outcome(environment, METRICS) == (0, '')


@pytest.mark.parametrize(
    'environment, message',
    [
        ('broken', "mmrazor cannot be imported (No module named 'mm"),
        ('missing', 'found neither mmengine, mmcv'),
        ('nothing_else', 'packaging'),
        ('old_version', 'found 0.3.1 for mmrazor==1.0.0'),
    ],
)
@pytest.mark.parametrize('statement', ALL_ELSE)
def test_all_else_ends_in_one_clear_message(environment, message, statement):
    status, said = outcome(environment, statement)
    assert status == 1
    assert said.count('Traceback') == 1
    last = said.splitlines()[-1]
    assert last.startswith('ImportError: ') and message in last
    assert 'pip install' in last or 'make setup' in last


def test_without_the_compat_layer_losses_work_and_all_else_says_why():
    done = python(
        'from mmbckd.functional import relation_kl'
        + USE
        + 'print("used")\nimport mmbckd; mmbckd.models',
        MMBCKD_NO_COMPAT='1',
    )
    assert done.stdout == 'used\n'
    assert done.stderr.splitlines()[-1].startswith('ImportError: mmrazor ')


def test_metrics_name_what_they_need():
    status, said = outcome('nothing_else', METRICS)
    assert status == 1
    assert said.splitlines()[-1] == (
        "ModuleNotFoundError: No module named 'cv2'"
    )


def test_where_all_is_well_the_mathematics_registers_everything_too():
    """Everything but the generator of street scenes, which is large."""
    done = python(
        'import sys\n'
        'import mmbckd.functional\n'
        'from mmrazor.registry import MODELS\n'
        'assert MODELS.get("BCKDDistiller") is not None\n'
        'assert "mmbckd.datasets" in sys.modules\n'
        'assert not any("street_scenes" in name for name in sys.modules)'
    )
    assert done.returncode == 0, done.stderr
