"""demo/bckd_demo.py, with fewer steps."""

import importlib.util
from pathlib import Path

import cv2

DEMO = Path(__file__).parents[2] / 'demo' / 'bckd_demo.py'


def test_student_without_labels_comes_to_see_what_the_teacher_sees(tmp_path):
    spec = importlib.util.spec_from_file_location('bckd_demo', DEMO)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    before, after = demo.main(tmp_path / 'demo.png', steps=20)
    # Without an opinion both terms of the boundary loss are log 2.
    assert abs(before['loss_bd'] - 1.386) < 0.1
    assert after['loss_bd'] < before['loss_bd'] - 0.1
    assert after['loss_cd'] < before['loss_cd'] / 2
    assert after['boundary'].std() > 2 * before['boundary'].std()
    assert cv2.imread(str(tmp_path / 'demo.png')).std() > 0
