"""Say where a Mask R-CNN loses AP: in its boxes, or in its masks.

Its detections in the test images are evaluated as they are, and with one thing
replaced by a better one: the masks by those that the teacher's mask head
predicts in the same boxes, the boxes by the teacher's from the same proposals,
the boxes by the true ones, the masks by the true ones. The true one is that of
the instance of the same class that a detection's box overlaps most; if that is
less than --iou, the detection stays as it is. So it is known before training
what a distillation of masks, or of boxes, may gain.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan
from pathlib import Path
from unittest.mock import patch

import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.config import Config, DictAction
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import InstanceData
from torch import Tensor

from mmbckd.analysis.formatting import markdown_table
from mmbckd.engine.distillation_inputs import fit_truth
from mmbckd.models.algorithms.teacher_inputs import TeacherInputs
from mmbckd.models.utils import batch_of_call, build_model

METRICS = {
    'bbox_mAP': 'box AP',
    'bbox_mAP_75': 'box AP75',
    'segm_mAP': 'mask AP',
    'segm_mAP_75': 'mask AP75',
    'boundary_mAP': 'boundary AP',
    'boundary_mAP_75': 'boundary AP75',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config of the student')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--teacher',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='its config and checkpoint (default: the truth only)',
    )
    parser.add_argument('--iou', type=float, default=0.5, help='default: 0.5')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


@contextmanager
def teachers_part(
    student: BaseModel, teacher: BaseModel, part: str
) -> Iterator[None]:
    """The student's RoI head with a method, such as ``'predict_mask'``, that
    is the teacher's, on the teacher's features."""
    features: list[tuple[Tensor, ...]] = []
    converted = TeacherInputs(
        student.data_preprocessor, teacher.data_preprocessor
    )

    def see_images(module: torch.nn.Module, inputs: tuple) -> None:
        features[:] = [teacher.extract_feat(converted(inputs[0]))]

    def predict(x: tuple, *args, **kwargs) -> list[InstanceData]:
        return getattr(teacher.roi_head, part)(features[0], *args, **kwargs)

    hook = student.backbone.register_forward_pre_hook(see_images)
    try:
        with patch.object(student.roi_head, part, predict):
            yield
    finally:
        hook.remove()


@contextmanager
def true_part(student: BaseModel, part: str, iou: float) -> Iterator[None]:
    """The student's detections with the ``'boxes'`` or ``'masks'`` of the
    truth."""
    loaded: list[InstanceData] = []
    truths: list[InstanceData] = []
    predict_mask = student.roi_head.predict_mask

    def see_call(model: BaseModel, args: tuple, kwargs: dict) -> None:
        call = batch_of_call(args, kwargs)
        samples = call['data_samples']
        size = call['inputs'].shape[-2:]
        loaded[:] = [sample.gt_instances for sample in samples]
        truths[:] = [
            fit_truth(sample, size, 255).gt_instances for sample in samples
        ]

    def predict(
        x: tuple,
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        found = [
            matches(result, truth, iou)
            for result, truth in zip(results_list, truths, strict=True)
        ]
        if part == 'boxes':
            for result, truth, (hits, which) in zip(
                results_list, truths, found
            ):
                result.bboxes[hits] = get_box_tensor(truth.bboxes)[which].to(
                    result.bboxes
                )
        results = predict_mask(x, batch_img_metas, results_list, rescale)
        if part == 'masks':
            for result, truth, (hits, which) in zip(results, loaded, found):
                masks = truth.masks.resize(result.masks.shape[-2:])
                result.masks[hits] = torch.from_numpy(
                    masks.to_ndarray()[which.cpu().numpy()] > 0
                ).to(result.masks)
        return results

    hook = student.register_forward_pre_hook(see_call, with_kwargs=True)
    try:
        with patch.object(student.roi_head, 'predict_mask', predict):
            yield
    finally:
        hook.remove()


def matches(
    result: InstanceData, truth: InstanceData, iou: float
) -> tuple[Tensor, Tensor]:
    """Which detections are of a true instance, and of which."""
    boxes = get_box_tensor(truth.bboxes).to(result.bboxes)
    overlaps = bbox_overlaps(result.bboxes, boxes)
    overlaps[result.labels[:, None] != truth.labels.to(result.labels)] = 0
    if not overlaps.numel():
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing
    best, which = overlaps.max(dim=1)
    hits = (best >= iou).nonzero().flatten()
    return hits, which[hits]


def measure(
    student: BaseModel,
    teacher: BaseModel | None,
    test: Callable[[], dict[str, float]],
    iou: float,
) -> dict[str, dict[str, float]]:
    """What is measured with each part replaced, by what it is replaced by."""
    found = {'nothing': test()}
    if teacher is not None:
        for title, part in (
            ("the teacher's masks", 'predict_mask'),
            ("the teacher's boxes", 'predict_bbox'),
        ):
            with teachers_part(student, teacher, part):
                found[title] = test()
    for part in ('boxes', 'masks'):
        with true_part(student, part, iou):
            found[f'true {part}'] = test()
    return found


def table(found: dict) -> list[str]:
    """What was found, in Markdown."""
    return markdown_table(
        ['replaced by', *METRICS.values()],
        [
            [title, *(f'{metrics[key]:.3f}' for key in METRICS)]
            for title, metrics in found['replaced'].items()
        ],
    )


def evaluate_boundaries(config: Config) -> None:
    """Have the test report box, mask and Boundary AP."""
    evaluator = config.get('test_evaluator')
    kind = evaluator.get('type') if isinstance(evaluator, dict) else None
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    if name.rpartition('.')[2] not in ('CocoMetric', 'CocoBoundaryMetric'):
        sys.exit(
            'mask_oracles.py: Expected CocoMetric or CocoBoundaryMetric as '
            f'the `test_evaluator`, but got {evaluator}. Set one.'
        )
    evaluator.update(type='CocoBoundaryMetric', metric=['bbox', 'segm'])


def main() -> None:
    args = parse_args()
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    config.load_from = args.checkpoint
    evaluate_boundaries(config)
    teacher = None
    if args.teacher is not None:
        teacher = build_model(args.teacher[0]).eval()
        load_checkpoint(teacher, args.teacher[1], map_location='cpu')
    with tempfile.TemporaryDirectory() as work_dir:
        config.work_dir = work_dir
        runner = Runner.from_cfg(config)
        if teacher is not None:
            teacher.to(next(runner.model.parameters()).device)

        def test() -> dict[str, float]:
            metrics = runner.test()
            # Where nothing is detected, there is no AP.
            return {key: metrics.get(f'coco/{key}', nan) for key in METRICS}

        rows = measure(runner.model, teacher, test, args.iou)
    found = dict(config=Path(args.config).stem, iou=args.iou, replaced=rows)
    print('\n'.join(table(found)))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2) + '\n')


if __name__ == '__main__':
    main()
