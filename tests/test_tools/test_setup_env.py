"""What `make setup` finds and says before it installs anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path) -> Path:
    """The files that the script goes by."""
    clone = tmp_path / 'mmbckd'
    for name in (
        'Makefile',
        'requirements/constraints.txt',
        'requirements/constraints-openmmlab.txt',
        'setup.py',
        'pyproject.toml',
        'mmbckd/version.py',
        'mmbckd_compat.pth',
        'tools/setup_env.sh',
    ):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    return clone


def setup(clone: Path, **env) -> subprocess.CompletedProcess:
    """Run it where nothing can be downloaded."""
    return subprocess.run(
        ['make', '--no-print-directory', 'setup'],
        cwd=clone,
        env={
            # The options of a `make test` are not those of this make.
            **{k: v for k, v in os.environ.items() if k != 'MAKEFLAGS'},
            'PYTHON': sys.executable,
            'PIP_NO_INDEX': '1',
            'XDG_CACHE_HOME': str(clone.parent / 'cache'),
            **env,
        },
        capture_output=True,
        text=True,
    )


def finish(clone: Path) -> None:
    """Leave what a finished setup leaves, without the packages."""
    done = setup(clone)
    assert done.returncode and 'pip failed' in done.stderr, done.stderr
    (clone / '.venv' / 'setup.done').touch()


def test_finished_setup_is_left_alone(clone):
    finish(clone)
    link = clone.with_name('link')
    link.symlink_to(clone)
    for place, env in ((clone, {}), (clone, dict(PYTHON='')), (link, {})):
        done = setup(place, **env)
        assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_setup_goes_on_where_it_was_interrupted(clone):
    finish(clone)
    (clone / '.venv' / 'setup.done').unlink()
    (clone / '.venv' / 'kept').touch()
    assert 'pip failed' in setup(clone).stderr
    assert (clone / '.venv' / 'kept').exists()


def test_changed_pins_are_installed(clone):
    finish(clone)
    pins = clone / 'requirements' / 'constraints.txt'
    os.utime(pins, (2e9, 2e9))
    assert 'pip failed' in setup(clone).stderr


def test_moved_clone_is_set_up_anew(clone):
    # The scripts in its .venv name the old place.
    finish(clone)
    moved = clone.rename(clone.with_name('moved'))
    done = setup(moved)
    assert 'creating it anew' in done.stdout
    script = (moved / '.venv' / 'bin' / 'pip').read_text()
    assert str(moved) in script and str(clone) not in script


def test_another_python_is_asked_for(clone):
    finish(clone)
    done = setup(clone, PYTHON='/bin/false')
    assert done.returncode
    assert 'PYTHON=/bin/false is not a working Python' in done.stderr


def test_environment_of_somebody_else_is_kept(clone):
    (clone / '.venv').mkdir()
    (clone / '.venv' / 'theirs').touch()
    done = setup(clone)
    assert done.returncode
    assert f"{clone}/.venv was not made by 'make setup'" in done.stderr
    assert (clone / '.venv' / 'theirs').exists()


def test_folder_for_the_built_mmcv_has_to_be_writable(clone):
    (clone.parent / 'cache').touch()
    done = setup(clone)
    assert done.returncode and 'XDG_CACHE_HOME' in done.stderr
    assert not (clone / '.venv').exists()
