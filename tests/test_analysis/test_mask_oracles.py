"""Where a Mask R-CNN loses AP, by the tool mask_oracles.py."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData

from tests.detectors import mask_detector, rectangle, sample

ROOT = Path(__file__).parents[2]
SIZE = 64


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
    import mask_oracles

    return mask_oracles


def model(seed):
    torch.manual_seed(seed)
    built = MODELS.build(mask_detector()).eval()
    # So that masks are not of one value.
    built.roi_head.mask_head.conv_logits.weight.data *= 100
    return built


def image():
    """An image of 32x32 that the model sees in twice the size, with two
    instances that were loaded afterwards."""
    shape = (SIZE // 2, SIZE // 2)
    data_sample = sample(
        [rectangle(shape, 2, 4, 20, 15), rectangle(shape, 12, 16, 30, 31)],
        labels=[1, 3],
    )
    data_sample.set_metainfo(
        dict(img_shape=(SIZE, SIZE), scale_factor=(2.0, 2.0))
    )
    torch.manual_seed(0)
    return torch.randn(1, 3, SIZE, SIZE), data_sample


def proposals(*boxes):
    """Detections in the size of the input."""
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).view(-1, 4),
        scores=torch.ones(len(boxes)),
        labels=torch.tensor([1, 3, 0][: len(boxes)]),
    )


# Near the first instance, near the second, and exactly on the first but of
# another class.
BOXES = [(8, 6, 30, 42), (30, 26, 62, 60), (8, 4, 30, 40)]


def detect(detector, boxes=BOXES):
    """The detector's masks and boxes for some detections."""
    images, data_sample = image()
    detector.roi_head.predict_bbox = lambda *_, **__: [proposals(*boxes)]
    with torch.no_grad():
        (found,) = detector(images, [data_sample], mode='predict')
    return found.pred_instances


def test_true_boxes_are_those_of_the_same_class(tool):
    detector = model(0)
    with tool.true_part(detector, 'boxes', iou=0.5):
        found = detect(detector)
    # In the size of the image.
    assert found.bboxes.tolist() == [
        [4, 2, 15, 20],
        [16, 12, 31, 30],
        [4, 2, 15, 20],
    ]
    exact = detect(detector, [(8, 4, 30, 40), (32, 24, 62, 60), BOXES[2]])
    assert (found.masks == exact.masks).all()
    assert (found.masks != detect(detector).masks).any()


def test_true_masks_are_those_that_were_loaded(tool):
    detector = model(0)
    with tool.true_part(detector, 'masks', iou=0.5):
        found = detect(detector)
    plain = detect(detector)
    truth = torch.from_numpy(image()[1].gt_instances.masks.masks > 0)
    assert (found.masks[:2] == truth).all()
    assert (found.masks[2] == plain.masks[2]).all()
    assert (plain.masks[:2] != truth).any()
    assert (found.bboxes == plain.bboxes).all()


def test_what_overlaps_too_little_stays(tool):
    detector = model(0)
    with tool.true_part(detector, 'masks', iou=0.99):
        found = detect(detector)
    assert (found.masks == detect(detector).masks).all()


def test_masks_of_the_teacher_are_those_it_predicts_itself(tool):
    student, teacher = model(0), model(1)
    own = detect(student).masks
    with tool.teachers_part(student, teacher, 'predict_mask'):
        found = detect(student).masks
    assert (found == detect(teacher).masks).all() and (found != own).any()
    assert (detect(student).masks == own).all()


def test_image_without_instances_or_detections(tool):
    detector = model(0)
    images, data_sample = image()
    data_sample.gt_instances = data_sample.gt_instances[:0]
    result, truth = proposals(*BOXES), data_sample.gt_instances
    assert [len(each) for each in tool.matches(result, truth, 0.5)] == [0, 0]
    with tool.true_part(detector, 'masks', iou=0.5):
        assert len(detect(detector, []).masks) == 0


@pytest.mark.parametrize('kind', ['CocoMetric', 'mmdet.CocoMetric'])
def test_any_coco_metric_reports_boundary_ap(tool, kind):
    config = Config(dict(test_evaluator=dict(type=kind, metric='bbox')))
    tool.evaluate_boundaries(config)
    assert config.test_evaluator == dict(
        type='CocoBoundaryMetric', metric=['bbox', 'segm']
    )


def test_other_metrics_are_refused_before_the_test(tool):
    for evaluator in (dict(type='VOCMetric'), [dict(type='CocoMetric')]):
        with pytest.raises(SystemExit, match='Expected CocoMetric'):
            tool.evaluate_boundaries(Config(dict(test_evaluator=evaluator)))


def test_everything_is_measured_and_shown(tool):
    student, teacher = model(0), model(1)
    masks = []

    def test():
        masks.append(detect(student).masks)
        return dict.fromkeys(tool.METRICS, len(masks) / 10)

    rows = tool.measure(student, teacher, test, 0.5)
    assert list(rows) == [
        'nothing',
        "the teacher's masks",
        "the teacher's boxes",
        'true boxes',
        'true masks',
    ]
    assert (masks[0] != masks[1]).any() and (masks[0] != masks[4]).any()
    lines = tool.table(dict(replaced=rows))
    assert 'boundary AP75' in lines[0] and '0.500' in lines[-1]
    assert list(tool.measure(student, None, test, 0.5)) == [
        'nothing',
        'true boxes',
        'true masks',
    ]
