"""The operators of the mmcv that `make setup` builds, on the CPU."""

import math

import numpy as np
import pytest
import torch
import torchvision
from mmcv.ops import (
    box_iou_rotated,
    deform_conv2d,
    modulated_deform_conv2d,
    nms,
    roi_align,
)
from shapely import affinity, geometry


def boxes(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    sides = torch.rand(count, 2, generator=generator) * 30 + 1
    return torch.cat([corners, corners + sides], 1)


def test_nms_keeps_what_torchvision_keeps():
    found, scores = boxes(), torch.rand(40)
    kept, index = nms(found, scores, 0.3)
    torch.testing.assert_close(index, torchvision.ops.nms(found, scores, 0.3))
    torch.testing.assert_close(
        kept, torch.cat([found[index], scores[index, None]], 1)
    )


@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_and_its_gradient_are_torchvisions(aligned):
    maps = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    rois = torch.cat([torch.arange(40)[:, None] % 2, boxes()], 1).double()
    outs = []
    for operator in (
        lambda x: roi_align(x, rois, (5, 7), 0.5, 2, 'avg', aligned),
        lambda x: torchvision.ops.roi_align(x, rois, (5, 7), 0.5, 2, aligned),
    ):
        x = maps.clone().requires_grad_()
        y = operator(x)
        y.square().sum().backward()
        outs.append((y.detach(), x.grad))
    torch.testing.assert_close(outs[0], outs[1])


@pytest.mark.parametrize('modulated', [True, False])
def test_deformable_convolution_and_its_gradients_are_torchvisions(modulated):
    inputs = [
        torch.randn(2, 4, 12, 10, dtype=torch.float64),
        torch.randn(2, 2 * 9, 12, 10, dtype=torch.float64),
        torch.rand(2, 9, 12, 10, dtype=torch.float64),
        torch.randn(6, 4, 3, 3, dtype=torch.float64),
    ]

    def ours(x, offset, mask, weight):
        if modulated:
            return modulated_deform_conv2d(
                x, offset, mask, weight, None, 1, 1, 1, 1, 1
            )
        return deform_conv2d(x, offset, weight, 1, 1)

    def theirs(x, offset, mask, weight):
        return torchvision.ops.deform_conv2d(
            x, offset, weight, None, 1, 1, mask=mask if modulated else None
        )

    outs = []
    for operator in (ours, theirs):
        tensors = [x.clone().requires_grad_() for x in inputs]
        y = operator(*tensors)
        y.square().sum().backward()
        outs.append(
            [y.detach(), *(x.grad for x in tensors if x.grad is not None)]
        )
    assert len(outs[0]) == (5 if modulated else 4)
    torch.testing.assert_close(*outs)


def test_iou_of_rotated_boxes_is_that_of_shapelys_polygons():
    rng = np.random.default_rng(0)
    found = np.concatenate(
        [
            rng.uniform(10, 30, (12, 2)),
            rng.uniform(5, 20, (12, 2)),
            rng.uniform(-math.pi, math.pi, (12, 1)),
        ],
        1,
    )
    polygons = [
        affinity.rotate(
            geometry.box(x - w / 2, y - h / 2, x + w / 2, y + h / 2),
            angle,
            use_radians=True,
        )
        for x, y, w, h, angle in found
    ]
    expected = [
        [a.intersection(b).area / a.union(b).area for b in polygons]
        for a in polygons
    ]
    tensor = torch.tensor(found, dtype=torch.float32)
    torch.testing.assert_close(
        box_iou_rotated(tensor, tensor),
        torch.tensor(expected).float(),
        rtol=1e-3,
        atol=1e-4,
    )
