"""Which part of a config the student is."""

from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config

from mmbckd.models.utils import (
    build_model,
    build_student,
    is_distillation,
    num_classes_of,
    student_config,
)
from tests.segmentors import cnn_segmentor

PURE_PYTHON = """
from mmengine.config import read_base

from mmbckd.models.algorithms import {name}

model = dict(type={name}, architecture=dict(type='A'), teacher=dict(type='B'))
"""


@pytest.mark.parametrize(
    'name', ['FrozenTeacherDistill', 'QuantizationAwareTraining']
)
def test_distillation_of_a_pure_python_config_is_recognized(tmp_path, name):
    """Its types are classes."""
    file = tmp_path / 'config.py'
    file.write_text(PURE_PYTHON.format(name=name))
    config = Config.fromfile(file)
    assert not isinstance(config.model.type, str)
    assert is_distillation(config)
    assert student_config(config) == dict(type='A')


def test_student_that_is_named_by_its_file_is_read(tmp_path):
    model = cnn_segmentor()
    model.pop('_scope_')
    file = tmp_path / 'student.py'
    file.write_text(f"default_scope = 'mmseg'\nmodel = {model!r}\n")
    config = Config(
        dict(
            model=dict(
                type='mmrazor.FrozenTeacherDistill',
                architecture=str(file),
                teacher=str(file),
            )
        )
    )
    assert student_config(config)['decode_head'] == model['decode_head']
    assert build_student(config).backbone.base_channels == 8


@pytest.mark.parametrize(
    'name, number',
    [
        ('retinanet/retinanet_r18_fpn_1x_coco.py', 80),
        # Proposals are of objects of any class.
        ('rpn/rpn_r50_fpn_1x_coco.py', None),
    ],
)
def test_number_of_classes_is_that_of_the_data(name, number):
    file = Path(mmdet.__file__).parent / '.mim/configs' / name
    assert num_classes_of(build_model(str(file))) == number
