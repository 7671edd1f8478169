"""What the wheels hold, and that they install and uninstall cleanly."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmbckd.stack import find_stacks
from mmbckd.version import CORE, PYTHON, STACKS, UNDECLARED, __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """A copy of the source tree, for builds write into theirs."""
    copy = tmp_path_factory.mktemp('source') / 'mmbckd'
    shutil.copytree(
        ROOT,
        copy,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            '.git',
            '.venv*',
            'work_dirs',
            'data',
            'build',
            '*.egg-info',
            '__pycache__',
        ),
    )
    (copy / 'configs' / 'extra').mkdir()
    (copy / 'configs' / 'extra' / 'teacher.pth').write_bytes(b'weights')
    for name in ('mmseg', 'mmdet'):
        (copy / 'configs' / name / 'teacher.pth').write_bytes(b'weights')
    return copy


def run(*arguments) -> str:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_wheel(source: Path, out: Path) -> None:
    run(
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--no-deps',
        '--no-build-isolation',
        '--wheel-dir',
        out,
        source,
    )


def build(source: Path, kind: str, out: Path) -> None:
    """What pip calls: `kind` is 'editable' or 'sdist'."""
    run(
        sys.executable,
        '-c',
        'import os, sys; os.chdir(sys.argv[1]); '
        'from setuptools import build_meta; '
        f'build_meta.build_{kind}(sys.argv[2])',
        source,
        out,
    )


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('wheel')
    pip_wheel(source, out)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def editable(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('editable')
    build(source, 'editable', out)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def sdist(source, tmp_path_factory) -> Path:
    """The source package, unpacked."""
    out = tmp_path_factory.mktemp('sdist')
    build(source, 'sdist', out)
    with tarfile.open(next(out.glob('*.tar.gz'))) as archive:
        archive.extractall(out)
    return next(path for path in out.iterdir() if path.is_dir())


def listed(wheel: Path) -> set:
    """The files that RECORD lists, which are those pip uninstalls."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith('/RECORD'))
        rows = archive.read(name).decode().splitlines()
        assert sorted(row.split(',')[0] for row in rows) == sorted(
            archive.namelist()
        )
    return {row.split(',')[0] for row in rows}


def test_wheel_has_the_hook_and_everything_mim_looks_for(wheel, source):
    files = listed(wheel)
    assert {
        'mmbckd_compat.py',
        'mmbckd_compat.pth',
        'mmbckd/__main__.py',
        'mmbckd/functional/__init__.py',
        'mmbckd/analysis/report/report.html',
        'mmbckd/datasets/layouts.yml',
        'mmbckd/.mim/model-index.yml',
        'mmbckd/.mim/tools/train.py',
        'mmbckd/.mim/tools/test.py',
        'mmbckd/.mim/configs/extra/teacher.pth',
    } <= files
    shipped = {
        path.relative_to(source).as_posix()
        for folder in ('configs', 'tables', 'tools')
        for path in (source / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    # Checkpoints of benchmarks are for a clone.
    kept_out = {
        path
        for path in shipped
        if path.startswith('configs/mm') and path.endswith('.pth')
    }
    assert {f'configs/{n}/teacher.pth' for n in ('mmseg', 'mmdet')} <= kept_out
    assert {
        path for path in shipped if f'mmbckd/.mim/{path}' not in files
    } == kept_out
    assert not [name for name in files if name.startswith(('tests', 'setup'))]


def test_source_package_builds_the_same_wheel(sdist, wheel, tmp_path):
    pip_wheel(sdist, tmp_path)
    assert listed(next(tmp_path.glob('*.whl'))) == listed(wheel)
    assert not list(sdist.rglob('configs/mm*/**/*.pth'))
    assert (sdist / 'configs' / 'extra' / 'teacher.pth').exists()


def test_build_writes_nothing_into_the_package(wheel, source):
    for name in ('configs', 'tables', 'tools', 'model-index.yml'):
        assert (source / 'mmbckd' / '.mim' / name).is_symlink()


def test_editable_wheel_has_the_hook_and_tells_mim_the_source(
    editable, source
):
    files = listed(editable)
    assert 'mmbckd_compat.pth' in files
    with zipfile.ZipFile(editable) as archive:
        top = next(name for name in files if name.endswith('top_level.txt'))
        first = archive.read(top).decode().splitlines()[0]
    assert Path(first) == source / 'mmbckd'
    assert (Path(first) / '.mim' / 'tools' / 'train.py').exists()


@pytest.mark.parametrize('kind', ['wheel', 'editable'])
def test_hook_comes_and_goes_with_the_package(kind, request, tmp_path):
    run(sys.executable, '-m', 'venv', tmp_path)
    python = tmp_path / 'bin' / 'python'
    pip = (python, '-m', 'pip', '--disable-pip-version-check')
    loaded = (
        python,
        '-c',
        'import sys; print("mmbckd_compat" in sys.modules)',
    )

    run(
        *pip,
        'install',
        '--no-deps',
        '--no-index',
        request.getfixturevalue(kind),
    )
    assert run(*loaded) == 'True\n'
    run(*pip, 'uninstall', '--yes', 'mmbckd')
    assert run(*loaded) == 'False\n'
    assert not list(tmp_path.glob('lib/python*/site-packages/*mmbckd*'))


def test_declared_dependencies_are_those_of_version_py(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith('/METADATA'))
        metadata = archive.read(name).decode()
    assert f'\nVersion: {__version__}\n' in metadata
    declared = [
        Requirement(line)
        for line in re.findall(
            r'^Requires-Dist: (.*)$', metadata, re.MULTILINE
        )
    ]
    # Neither stack, for installing one overwrites the other.
    assert wanted(each for each in declared if each.marker is None) == {
        name: SpecifierSet(versions)
        for name, versions in {**CORE, **UNDECLARED}.items()
    }
    for stack, needed in STACKS.items():
        assert wanted(
            each
            for each in declared
            if each.marker and each.marker.evaluate({'extra': stack})
        ) == {name: SpecifierSet(each) for name, each in needed.items()}


def wanted(requirements) -> dict:
    return {each.name: each.specifier for each in requirements}


def pins(stack: str) -> dict:
    folder = ROOT / 'requirements'
    shared, own = (
        re.findall(r'^\w.*$', (folder / name).read_text(), re.MULTILINE)
        for name in ('constraints.txt', f'constraints-{stack}.txt')
    )
    assert not wanted(map(Requirement, shared)).keys() & wanted(
        map(Requirement, own)
    )
    return wanted(map(Requirement, shared + own))


@pytest.mark.parametrize('stack', STACKS)
def test_constraints_pin_one_version_of_everything_declared(stack):
    pinned = pins(stack)
    for specifier in pinned.values():
        assert re.fullmatch(r'==[\w.+]+', str(specifier))
    for name, versions in {**CORE, **STACKS[stack], **UNDECLARED}.items():
        version = str(pinned[name]).removeprefix('==')
        assert version in SpecifierSet(versions)
    for extra in ('deploy', 'docs', 'tests', 'pretrained'):
        file = ROOT / 'requirements' / f'{extra}.txt'
        for name in file.read_text().split():
            assert name in pinned


@pytest.mark.parametrize(
    'root',
    [
        'mmbckd',
        'the stack',
        'timm',
        'onnx',
        'onnxscript',
        'onnxruntime',
        'openvino',
    ],
)
def test_constraints_are_complete(root):
    """They are installed without being resolved; pip is always there."""
    (stack,) = find_stacks()
    pinned = {name.lower().replace('_', '-') for name in pins(stack)}
    # openvino runs without its telemetry, which is left out on purpose; what
    # imaug needs for a module that nobody imports is, too.
    left_out = ('openvino-telemetry', 'imagecorruptions-imaug')
    pinned |= {'mmbckd', 'pip', *left_out}
    seen, queue = set(), [*STACKS[stack]] if root == 'the stack' else [root]
    while queue:
        name = queue.pop().lower().replace('_', '-')
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            # setup_env.sh installs opencv-python-headless in the place of
            # opencv-python.
            assert name in ('opencv-python', *left_out)
            continue
        queue += [
            each.name
            for each in map(Requirement, needed)
            if each.marker is None or each.marker.evaluate({'extra': ''})
        ]


def test_this_python_is_supported():
    version = '.'.join(map(str, sys.version_info[:3]))
    assert version in SpecifierSet(PYTHON)
