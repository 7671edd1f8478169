"""Evaluation of a data set: our metrics beside the students' own inference.

The maps are 1024x2048 with 19 classes, as of Cityscapes: the truth of
generated street scenes, whose classes are split by region, and what the
quickstart's teacher makes of their images, with errors as networks make them.
The students have random weights; pre- and post-processing are timed with
them. Seconds are medians over `--repeats` images, all in one process.

Goal: evaluating 500 images takes no longer than a student's inference.
"""

import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from _measure import arguments, environment, write_json
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import METRICS
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

import mmbckd  # noqa: F401
from mmbckd.datasets import StreetScenesDataset
from mmbckd.datasets.street_scenes import generate_scene

CLASSES = StreetScenesDataset.METAINFO['classes']
ROOT = Path(__file__).resolve().parents[1]
TEACHER = ROOT / 'configs/quickstart/fpn_r18-w16_1xb8-3k_street-scenes-128x256'
SMALLEST = ROOT / (
    'configs/quickstart/fpn_r18-w8_1xb8-400_street-scenes-128x256.py'
)
STUDENTS = (
    SMALLEST,
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::hrnet/fcn_hr18s_4xb2-80k_cityscapes-512x1024.py',
)
SIZE, NUM_CLASSES, DATASET = (1024, 2048), 19, 500
OURS = ('BoundaryIoUMetric', 'ConnectivityMetric')


def more_classes(labels: np.ndarray) -> np.ndarray:
    """11 classes made 19: every second region of the first 8 is another."""
    out = labels.copy()
    for c in range(NUM_CLASSES - len(CLASSES)):
        _, regions = cv2.connectedComponents((labels == c).astype(np.uint8))
        out[regions % 2 == 1] = c + len(CLASSES)
    return out


def build(cfg: Config) -> torch.nn.Module:
    """The model of a config, with random weights, for one process."""
    cfg.model.pretrained = None
    cfg.model.data_preprocessor = dict(cfg.data_preprocessor, size=None)
    return MODELS.build(cfg.model).eval()


def packed(image: np.ndarray, labels: np.ndarray) -> dict:
    """A batch of one image, as the test pipeline packs it."""
    shape = image.shape[:2]
    sample = SegDataSample(
        metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
    )
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels[None]))
    inputs = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return dict(inputs=[inputs], data_samples=[sample])


def main() -> None:
    args = arguments(__doc__).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules()

    teacher = build(Config.fromfile(f'{TEACHER}.py'))
    load_checkpoint(teacher, f'{TEACHER}.pth', map_location='cpu')
    students = {
        Path(name).stem: build(
            get_config(name)
            if isinstance(name, str)
            else Config.fromfile(name)
        )
        for name in STUDENTS
    }
    metrics = {
        name: METRICS.build(dict(type=name)) for name in ('IoUMetric', *OURS)
    }
    for metric in metrics.values():
        metric.dataset_meta = dict(
            classes=[f'class {c}' for c in range(NUM_CLASSES)]
        )

    seconds = defaultdict(list)
    for index in range(args.repeats):
        scene = generate_scene(index, *SIZE)
        batch = packed(scene['image'], more_classes(scene['labels']))
        with torch.no_grad():
            sample = teacher.test_step(batch)[0].to_dict()
            labels = sample['pred_sem_seg']['data'][0].numpy()
            sample['pred_sem_seg']['data'] = torch.from_numpy(
                more_classes(labels)[None]
            )
            for name, student in students.items():
                start = time.perf_counter()
                student.test_step(batch)
                seconds[name].append(time.perf_counter() - start)
        for name, metric in metrics.items():
            start = time.perf_counter()
            metric.process(None, [sample])
            seconds[name].append(time.perf_counter() - start)
        print(f'{index + 1}/{args.repeats}', flush=True)

    per_image = {name: median(values) for name, values in seconds.items()}
    summary = {}
    for name, metric in metrics.items():
        repeats = -(-DATASET // args.repeats)
        results = (metric.results * repeats)[:DATASET]
        start = time.perf_counter()
        metric.compute_metrics(results)
        summary[name] = time.perf_counter() - start
    ours = sum(DATASET * per_image[name] + summary[name] for name in OURS)
    write_json(
        args.out,
        dict(
            environment=environment(),
            repeats=args.repeats,
            size=SIZE,
            classes=NUM_CLASSES,
            seconds_per_image=per_image,
            seconds_to_summarize_500=summary,
            seconds_for_500=dict(
                ours=ours, **{s: DATASET * per_image[s] for s in students}
            ),
            ratio_to_inference={
                s: ours / (DATASET * per_image[s]) for s in students
            },
        ),
    )


if __name__ == '__main__':
    main()
