"""What a student gives in the simulator of Rockchip's RKNN-Toolkit2.

It needs an environment of its own, without mmbckd, because the toolkit wants
NumPy 1 and PyTorch up to 2.4:
pip install rknn-toolkit2 opencv-python-headless

The float file of `mim run mmbckd export_student` is built in float16 and in
INT8, and compared with itself on ONNX Runtime on all validation images.
"""

import argparse
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from _measure import environment, write_json
from rknn.api import RKNN

NUM_CALIBRATION_IMAGES = 64


def read(file: Path, size: tuple[int, int]) -> np.ndarray:
    """An image of a size (height, width), BGR."""
    return cv2.resize(cv2.imread(str(file)), size[::-1])


def labels(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The label map (H, W) in the size of the truth, as mmseg resizes it."""
    resized = F.interpolate(
        torch.from_numpy(logits), shape, mode='bilinear', align_corners=False
    )
    return resized[0].argmax(0).numpy()


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU in percent, of a matrix of counts."""
    hits = confusion.diagonal()
    return 100 * float(
        (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean()
    )


def build(file: str, image: dict, target: str, images: Path | None) -> RKNN:
    """The network in the simulator: in INT8 by a list of images."""
    network = RKNN(verbose=False)
    network.config(
        mean_values=[image['mean']],
        std_values=[image['std']],
        target_platform=target,
    )
    for step in (
        lambda: network.load_onnx(model=file),
        lambda: network.build(
            do_quantization=images is not None,
            dataset=str(images) if images else None,
        ),
        network.init_runtime,
    ):
        if step() != 0:
            raise SystemExit('RKNN-Toolkit2 failed, see its message above.')
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument('file', help='ONNX file, of normalized RGB images')
    parser.add_argument('--target', default='rk3588')
    args = parser.parse_args()
    proto = onnx.load(args.file)
    meta = {p.key: json.loads(p.value) for p in proto.metadata_props}
    num_classes = len(meta['classes'])
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    size = dims[2].dim_value, dims[3].dim_value
    data = Path(os.environ['MMBCKD_CAMVID'])
    train = sorted((data / 'images' / 'train').iterdir())
    picks = np.linspace(0, len(train) - 1, NUM_CALIBRATION_IMAGES).astype(int)
    val = sorted((data / 'images' / 'val').iterdir())
    session = onnxruntime.InferenceSession(args.file)
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / 'images.txt'
        for i in picks:
            written = f'{folder}/{i}.png'
            cv2.imwrite(written, read(train[i], size))
            with calibration.open('a') as stream:
                stream.write(f'{written}\n')
        networks = dict(
            float16=build(args.file, meta['input'], args.target, None),
            int8=build(args.file, meta['input'], args.target, calibration),
        )
        counts = {
            name: np.zeros((num_classes, num_classes))
            for name in ('onnxruntime', *networks)
        }
        equal = dict.fromkeys(networks, 0.0)
        for file in val:
            image = read(file, size)[..., ::-1]
            mean, std = (np.float32(meta['input'][k]) for k in ('mean', 'std'))
            given = ((image - mean) / std).transpose(2, 0, 1)[None]
            found = {'onnxruntime': session.run(None, {'image': given})[0]}
            for name, network in networks.items():
                (found[name],) = network.inference(
                    inputs=[image[None].copy()], data_format=['nhwc']
                )
                equal[name] += 100 * float(
                    np.mean(
                        found[name].argmax(1) == found['onnxruntime'].argmax(1)
                    )
                )
            annotation = data / 'annotations' / 'val' / f'{file.stem}.png'
            truth = cv2.imread(str(annotation), cv2.IMREAD_UNCHANGED)
            known = truth < num_classes
            for name, logits in found.items():
                pairs = (
                    truth[known].astype(int) * num_classes
                    + labels(logits, truth.shape)[known]
                )
                counts[name] += np.bincount(
                    pairs, minlength=num_classes**2
                ).reshape(num_classes, -1)
    results = dict(
        environment=environment(),
        file=Path(args.file).name,
        size=size,
        target=args.target,
        images=len(val),
        calibration_images=NUM_CALIBRATION_IMAGES,
        mIoU={name: mean_iou(count) for name, count in counts.items()},
        agreement={name: value / len(val) for name, value in equal.items()},
    )
    for package in ('rknn-toolkit2', 'onnx', 'onnxruntime'):
        results['environment'][package] = version(package)
    write_json(args.out, results)


if __name__ == '__main__':
    main()
