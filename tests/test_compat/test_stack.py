"""Which stack is found, by faked metadata, and what only the fork needs."""

import os
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions
from importlib.util import spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import mim.utils.utils
import pytest
from mmengine.config import Config

import mmbckd_compat
from mmbckd import stack

CORE = {'torch': '2.11.0+cu130', 'mmrazor': '1.0.0'}
OPENMMLAB = {
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmsegmentation': '1.2.2',
    'mmdet': '3.3.0',
    'openmim': '0.3.9',
}
ONEDL = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmdetection': '3.5.1',
    'onedl-mim': '0.5.1',
}


def problem(monkeypatch, **installed):
    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(stack, 'version', version)
    return stack.stack_problem()


@pytest.mark.parametrize('versions', [OPENMMLAB, ONEDL])
def test_either_stack_is_all_that_is_needed(versions, monkeypatch):
    assert problem(monkeypatch, **CORE, **versions) is None
    assert list(stack.find_stacks().values()) == [versions]


@pytest.mark.parametrize('versions', [OPENMMLAB, ONEDL])
def test_each_part_of_a_stack_is_needed(versions, monkeypatch):
    for name in versions:
        rest = {k: v for k, v in versions.items() if k != name}
        said = problem(monkeypatch, **CORE, **rest)
        assert f'found nothing for {name}' in said
        assert f'pip install "{name}' in said
        assert said.count('nothing') == 1


@pytest.mark.parametrize(
    'name, version',
    [
        ('mmcv', '2.2.0'),
        ('onedl-mmcv', '2.4.0'),
        ('onedl-mmcv', '2.3.5'),
        ('onedl-mmsegmentation', '1.5.0'),
        ('torch', '2.6.0'),
        ('mmrazor', '0.3.1'),
    ],
)
def test_other_versions_are_named(name, version, monkeypatch):
    versions = ONEDL if name in ONEDL else OPENMMLAB
    said = problem(monkeypatch, **{**CORE, **versions, name: version})
    assert f'(found {version} for {name}' in said
    assert f'pip install "{name}' in said


def test_without_any_stack_both_are_offered(monkeypatch):
    said = problem(monkeypatch, **CORE)
    assert 'neither mmengine, mmcv' in said and 'onedl-mmcv' in said
    assert '`make setup`' in said and 'STACK=onedl' in said


@pytest.mark.parametrize('intruder', [*OPENMMLAB])
def test_parts_of_two_stacks_are_to_be_uninstalled(intruder, monkeypatch):
    """As by `pip install mmcv` beside the fork: both write the same files."""
    mixed = {intruder: OPENMMLAB[intruder], **ONEDL}
    said = problem(monkeypatch, **CORE, **mixed)
    assert f'{intruder} {OPENMMLAB[intruder]}' in said
    assert f'`pip uninstall {" ".join(mixed)}`' in said


def test_one_stack_is_installed_here():
    assert len(stack.find_stacks()) == 1 and stack.stack_problem() is None


@pytest.mark.parametrize('version', ['2.1.0', '2.2.0', '2.3.6', '2.4.0'])
def test_mmrazor_accepts_the_mmcv_of_the_fork_only(
    version, tmp_path, monkeypatch
):
    """And nobody is told of another version than the real one."""
    real = Path(sys.modules['mmrazor'].__file__).read_text()
    file = tmp_path / 'mmrazor_copy.py'
    file.write_text(real.replace('from .version', 'from mmrazor.version'))
    monkeypatch.setattr('mmcv.__version__', version)
    spec = spec_from_file_location('mmrazor_copy', file)
    what = mmbckd_compat._patch_max_mmcv(spec)
    namespace = SimpleNamespace(__name__=spec.name)
    code = spec.loader.get_code(spec.name)
    if version in ('2.2.0', '2.4.0'):
        with pytest.raises(AssertionError, match='incompatible'):
            exec(code, vars(namespace))
    else:
        exec(code, vars(namespace))
        assert namespace.mmcv.__version__ == version
        assert namespace.mmcv_version[:3] == mmbckd_compat._digits(version)
    assert (what is not None) == (version == '2.3.6')
    assert file.read_text().count("'2.1.0'") == 1
    assert not list(tmp_path.rglob('*.pyc'))


@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
def test_configs_of_the_libraries_are_found(library, tmp_path):
    name = {
        'mmseg': 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'mmdet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    }[library]
    file = tmp_path / 'student.py'
    file.write_text(f"_base_ = ['{library}::{name}']")
    assert Config.fromfile(file).model.backbone.depth == 50


@pytest.mark.parametrize('library', ['mmrazor', 'mmseg', 'mmdet'])
def test_mim_finds_the_scripts_of_a_package(library):
    (name,) = packages_distributions()[library]
    folder = mim.utils.utils.get_installed_path(name)
    assert os.path.isfile(os.path.join(folder, '.mim', 'tools', 'train.py'))


@pytest.mark.parametrize('first', ['mmbckd-0.2.0.dist-info', '__pycache__'])
def test_mim_finds_a_package_whose_first_file_is_not_its_modules(first):
    """A wheel's, from which pip has compiled modules outside of packages."""
    utils = SimpleNamespace(
        get_installed_path=lambda package: os.path.join('site', first),
        package2module=lambda package: package.replace('-', '_'),
    )
    mmbckd_compat._find_modules(utils)
    assert utils.get_installed_path('a-b') == os.path.join('site', 'a_b')
