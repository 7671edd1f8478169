"""The start-up hook: inert, cheap, harmless when broken, and switchable."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmrazor')


def python(*arguments: str, **environment: str):
    """A fresh Python, away from the source tree."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=dict(os.environ, **environment),
        cwd='/',
        capture_output=True,
        text=True,
    )


def test_hook_is_in_place_and_imports_nothing():
    done = python('-c', 'import sys; print(*sys.modules)')
    loaded = done.stdout.split()
    assert 'mmbckd_compat' in loaded, 'mmbckd is not installed here'
    assert not set(HEAVY) & set(loaded)


def test_looking_for_mmrazor_imports_nothing():
    done = python(
        '-c',
        'import sys, importlib.util as u; '
        'assert u.find_spec("mmrazor").origin; print(*sys.modules)',
    )
    assert not set(HEAVY) & set(done.stdout.split()), done.stderr


def test_hook_loads_nothing_but_itself_and_what_any_start_loads():
    code = (
        f'import sys; sys.path.append({str(ROOT)!r}); '
        'before = {*sys.modules}; import mmbckd_compat; '
        'mmbckd_compat.install(); print(*{*sys.modules} - before)'
    )
    loaded = set(python('-S', '-c', code).stdout.split())
    needed = python(
        '-S',
        '-c',
        'import sys, os, importlib, __future__; print(*sys.modules)',
    )
    assert loaded - set(needed.stdout.split()) == {'mmbckd_compat'}


def test_hook_does_nothing_when_other_modules_are_imported():
    """It is asked for each of them once, and looks for none."""
    code = """
import sys, mmbckd_compat
asked, looked_for = [], []
find_spec = mmbckd_compat._Finder.find_spec
def counted(self, name, *rest):
    asked.append(name)
    return find_spec(self, name, *rest)
mmbckd_compat._Finder.find_spec = counted
mmbckd_compat._Finder._find = lambda self, name, *_: looked_for.append(name)
mmbckd_compat._patch = lambda spec: looked_for.append(spec.name)
for name in ('json', 'xml.dom'):
    sys.modules.pop(name, None)
    __import__(name)
print(asked.count('json'), asked.count('xml.dom'), looked_for)
"""
    assert python('-c', code).stdout.strip() == '1 1 []'


def test_hook_is_off_with_the_switch():
    done = python(
        '-c',
        'import sys; print([type(f).__module__ for f in sys.meta_path])',
        MMBCKD_NO_COMPAT='1',
    )
    assert done.returncode == 0 and 'mmbckd_compat' not in done.stdout


# None: the clone of a development install is gone.
@pytest.mark.parametrize('module', [None, 'def install(:', 'install = 1'])
def test_broken_hook_never_breaks_python(module, tmp_path):
    pth = (ROOT / 'mmbckd_compat.pth').read_text()
    (tmp_path / 'zz.pth').write_text(pth.replace('mmbckd_compat', 'broken'))
    if module is not None:
        (tmp_path / 'broken.py').write_text(module)
    done = python(
        '-c',
        f'import site; site.addsitedir({str(tmp_path)!r}); print("alive")',
    )
    assert done.returncode == 0 and 'alive' in done.stdout
    assert ('Error processing line 1' in done.stderr) == bool(module)


def test_without_the_layer_one_sentence_says_what_to_do():
    done = python('-W', 'ignore', '-c', 'import mmbckd', MMBCKD_NO_COMPAT='1')
    assert done.returncode == 1
    assert done.stderr.count('Traceback') == 1
    assert done.stderr.splitlines()[-1] == (
        'ImportError: mmrazor cannot be imported on PyTorch 2 without '
        "mmbckd's compat layer, but the environment variable MMBCKD_NO_COMPAT "
        'is 1: unset it.'
    )


def test_report_shows_versions_patches_and_registered_names():
    done = python('-W', 'ignore', '-m', 'mmbckd')
    assert done.returncode == 0, done.stderr
    for word in (
        'torch',
        'mmrazor',
        'HistoryBuffer',
        'mmrazor.MODELS',
        'BCKDDistiller',
        'BoundaryAffinityLoss',
    ):
        assert word in done.stdout


def test_report_comes_even_where_mmbckd_does_not_work():
    done = python('-W', 'ignore', '-m', 'mmbckd', MMBCKD_NO_COMPAT='1')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'Environment' in done.stdout
    assert 'MMBCKD_NO_COMPAT is 1: unset it.' in done.stdout


def test_wrong_version_is_named_with_the_command_to_install():
    code = (
        'import importlib.metadata as m; real = m.version; '
        'm.version = lambda n: "0.3.1" if n == "mmrazor" else real(n); '
        'import mmbckd'
    )
    done = python('-W', 'ignore', '-c', code)
    assert done.returncode == 1
    assert re.search(
        r'ImportError: .*found 0\.3\.1 for mmrazor==1\.0\.0.*'
        r'pip install "mmrazor==1\.0\.0"',
        done.stderr,
    )
