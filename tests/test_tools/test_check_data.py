"""``python tools/check_data.py``: what it prints, and its exit code."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tests.data_layouts import write_datasets
from tests.data_layouts_coco import write_coco

ROOT = Path(__file__).parents[2]
SEGMENTATION = 'mmseg/fpn_r50_fpn_r18/bckd_*_camvid-*'
INSTANCES = 'mmdet/mask-rcnn_r18_mask-rcnn_r18-w16/bckd_*_camvid-*'
DETECTION = 'mmdet/retinanet_r101_retinanet_r50/bckd_*_coco'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data_sets')
    write_datasets(root)
    write_coco(root / 'data/coco', train=3, val=2)
    return root


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs the tool in this process; returns its exit code and output."""
    monkeypatch.delenv('MMBCKD_CAMVID', raising=False)
    file = ROOT / 'tools/check_data.py'
    spec = importlib.util.spec_from_file_location('check_data_tool', file)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(config, *arguments):
        if isinstance(config, str):
            config = next((ROOT / 'configs').glob(f'{config}.py'))
        monkeypatch.setattr(sys, 'argv', [file.name, str(config), *arguments])
        try:
            tool.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out or printed.err

    return run


def test_complete_data_of_our_configs_are_ready(check, data, monkeypatch):
    monkeypatch.chdir(data)
    for config in (
        'mmseg/pspnet_r101_pspnet_r18/bckd_*_voc12aug-*',
        SEGMENTATION,
        INSTANCES,
        DETECTION,
    ):
        code, printed = check(config)
        assert code == 0 and printed.endswith('\nready\n'), printed


@pytest.mark.parametrize('config', [SEGMENTATION, INSTANCES])
def test_missing_data_of_ours_end_with_where_they_should_lie(
    check, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, printed = check(config)
    assert code == 1 and 'Set the environment variable MMBCKD_CAM' in printed


def test_problems_are_numbered_and_end_with_exit_code_1(
    check, data, tmp_path, monkeypatch
):
    shutil.copytree(data / 'data/coco', tmp_path / 'data/coco')
    shutil.rmtree(tmp_path / 'data/coco/val2017')
    monkeypatch.chdir(tmp_path)
    code, printed = check(DETECTION)
    assert code == 1 and 'ready\n' not in printed.splitlines(True)[-1]
    assert '1. Expected data/coco/val2017, but it is missing' in printed


@pytest.mark.parametrize(
    'config, root', [(DETECTION, 'coco'), (SEGMENTATION, 'camvid')]
)
def test_other_data_root_is_checked(
    check, config, root, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert check(config)[0] == 1
    mine = data / 'data' / root
    code, printed = check(config, '--data-root', str(mine))
    assert code == 0
    assert f'ln -s {mine} data/{root}' in printed


def test_config_without_data_ends_in_a_message(check, tmp_path):
    file = tmp_path / 'model.py'
    file.write_text('model = dict()')
    code, printed = check(file)
    assert code == 2 and 'but got one without' in printed
