"""Inputs at the edge of what can be learned from, and precisions."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import nn

from tests.detectors import sample
from tests.runs import config, write_images
from tests.segmentors import batch, dilated_segmentor
from tests.test_models.test_instance_affinity import build as build_detector
from tests.test_models.test_instance_affinity import step as detector_step
from tests.test_models.test_training_step import algorithm, distill_terms, step


def gradients(model: nn.Module) -> dict:
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def all_finite(tensors) -> bool:
    return all(torch.isfinite(torch.as_tensor(t)).all() for t in tensors)


@pytest.mark.parametrize('source', ['semantic', 'feature', 'label'])
def test_batch_that_is_all_ignored_gives_finite_losses(source):
    images, samples = batch()
    for each in samples:
        each.gt_sem_seg.data.fill_(255)
    model = algorithm(source)
    losses = step(model, images, samples)
    assert all_finite(losses.values())
    assert all_finite(gradients(model).values())
    terms = distill_terms(losses)
    # The truth is all that is ignored: what the teacher says still counts.
    zero = [name for name, value in terms.items() if value == 0]
    assert len(terms) == 2 and len(zero) == (source == 'label')
    assert all('bd' in name for name in zero)


def test_maps_of_one_pixel_give_terms_of_zero():
    torch.manual_seed(0)
    side = dict(type='ModuleInputs', source='decode_head.conv_seg')
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=dilated_segmentor(),
            teacher=dilated_segmentor(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone', teacher='decode_head.conv_seg'
                ),
                context=dict(student=side, teacher=side),
            ),
        )
    ).train()
    losses = step(model, *batch(side=8))
    assert all_finite(losses.values())
    assert all_finite(gradients(model).values())
    assert list(distill_terms(losses).values()) == pytest.approx(
        [0, 0], abs=1e-6
    )  # up to float32's rounding


def test_batch_without_instances_gives_finite_losses():
    model = build_detector(teacher='gt_instances')
    losses, _, _ = detector_step(
        model, [sample([], shape=(60, 64)), sample([], shape=(48, 64))]
    )
    total, log_vars = model.parse_losses(losses)
    total.backward()
    assert len(distill_terms(log_vars)) == 2
    assert all_finite(log_vars.values())
    assert all_finite(gradients(model).values())


# ------------------------------------------------------------------ corrupt


def test_image_that_cannot_be_decoded_is_named(tmp_path):
    write_images(tmp_path)
    path = tmp_path / 'img' / '1.jpg'
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(AssertionError, match='failed to load image.*1.jpg'):
        Runner.from_cfg(config(tmp_path)).train()


def test_all_void_image_is_trained_and_evaluated(tmp_path):
    """Together with images that have labels."""
    write_images(tmp_path)
    mmcv.imwrite(
        np.full((32, 32), 255, np.uint8), str(tmp_path / 'ann' / '0.png')
    )
    runner = Runner.from_cfg(config(tmp_path))
    runner.train()
    logged = runner.message_hub.log_scalars
    assert all_finite(
        logged[name].data[0]
        for name in logged
        if name.startswith('train/') and 'loss' in name
    )
    assert 0 <= logged['val/mIoU'].current() <= 100


# --------------------------------------------------------------- precisions


@pytest.mark.parametrize('source', ['semantic', 'feature', 'label'])
def test_scaled_gradients_in_float16_are_those_of_float32(source):
    """As AmpOptimWrapper computes them on a GPU."""
    images, samples = batch()
    model = algorithm(source)
    model.calculate_student_loss = False
    step(model, images, samples)
    expected = gradients(model)
    model.zero_grad()
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**12)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    with torch.autocast('cpu', torch.float16):
        losses = model(images, samples, mode='loss')
    scaler.scale(sum(losses.values())).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)  # skipped, were a gradient not finite
    scaler.update()
    assert scaler.get_scale() == 2.0**12
    actual = gradients(model.student)
    flat = [
        torch.cat([grads[name].flatten() for name in sorted(actual)])
        for grads in (
            actual,
            {
                name.removeprefix('architecture.'): grad
                for name, grad in expected.items()
            },
        )
    ]
    # How far float16 strays depends on what the CPU accumulates in.
    assert torch.cosine_similarity(*flat, dim=0) > 0.95
    assert flat[0].norm() == pytest.approx(float(flat[1].norm()), rel=0.1)


def test_amp_on_a_cpu_is_refused_with_what_it_needs(monkeypatch):
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: False)
    with pytest.raises(AssertionError, match='only available training on gpu'):
        AmpOptimWrapper(
            optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        )
