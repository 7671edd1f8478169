"""Several processes with a part of the batch each learn what one process
learns from all of it.

Expected is the same code in one process.
"""

import pytest
import torch
import torch.distributed as dist
from mmrazor.registry import MODELS
from torch.nn.parallel import DistributedDataParallel

import mmbckd  # noqa: F401
from mmbckd.functional import boundary_affinity_loss, semantic_affinity_loss
from tests.processes import run_side_by_side
from tests.segmentors import batch, cnn_segmentor

NUM_IMAGES = 4
SOURCES = ['semantic', 'feature', 'label']


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def label_maps(*per_image):
    """Maps of a constant, or of random labels where that is None."""
    labels = random(NUM_IMAGES, 8, 9, seed=3).gt(0).long()
    for image, constant in zip(labels, per_image):
        if constant is not None:
            image.fill_(constant)
    return labels


# The teacher's side, its source, and the images of the first process.
CASES = dict(
    semantic=(random(NUM_IMAGES, 3, 4, 5, seed=1), 'semantic', 2),
    feature=(random(NUM_IMAGES, 5, 8, 9, seed=2), 'feature', 2),
    label=(label_maps(), 'label', 2),
    uneven_semantic=(random(NUM_IMAGES, 3, 8, 9, seed=1), 'semantic', 1),
    uneven_feature=(random(NUM_IMAGES, 5, 8, 9, seed=2), 'feature', 3),
    uneven_label=(label_maps(), 'label', 3),
    no_pair_apart_in_one_process=(label_maps(1, 1), 'label', 2),
    no_pair_at_all_in_one_process=(label_maps(255, 255), 'label', 2),
    no_pair_apart_anywhere=(label_maps(1, 1, 1, 1), 'label', 2),
    no_pair_at_all_anywhere=(label_maps(255, 255, 255, 255), 'label', 2),
    mask=(random(NUM_IMAGES, 3, 4, 5, seed=1), 'mask', 2),
    uneven_mask=(random(NUM_IMAGES, 3, 8, 9, seed=1), 'mask', 3),
)


def boundary_term(case, images=slice(None), group=None):
    """Loss and gradient of some of the images."""
    teacher, source, _ = CASES[case]
    if source == 'mask':
        logits = random(NUM_IMAGES, 3, 8, 9, seed=0)[images].requires_grad_()
        loss = semantic_affinity_loss(
            logits, teacher[images], radius=3.0, group=group
        )
        loss.backward()
        return loss.detach(), logits.grad
    z = random(NUM_IMAGES, 1, 8, 9, seed=0)[images].requires_grad_()
    loss = boundary_affinity_loss(
        z, teacher[images], source=source, radius=3.0, group=group
    )
    loss.backward()
    return loss.detach(), z.grad


def algorithm(source):
    """Both terms, in float64, on a student that normalizes image by image."""
    torch.manual_seed(0)
    student = cnn_segmentor(dropout=0.0)
    for part in (student['backbone'], student['decode_head']):
        part['norm_cfg'] = dict(type='GN', num_groups=4)
    logits = dict(type='ModuleInputs', source='decode_head.conv_seg')
    teacher_side = dict(
        semantic=dict(teacher='decode_head.conv_seg'),
        feature=dict(teacher='backbone'),
        label=dict(),
    )[source]
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student,
            teacher=cnn_segmentor(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone', source=source, **teacher_side
                ),
                context=dict(student=logits, teacher=logits),
            ),
        )
    )
    return model.double().train()


def training_step(source, rank=0, world_size=1):
    """Losses by name and the gradient, of this process' images."""
    model = algorithm(source)
    torch.manual_seed(1)
    images, samples = batch(NUM_IMAGES)
    # The processes differ in how many pairs are apart.
    for n, sample in enumerate(samples):
        sample.gt_sem_seg.data[..., 16 * n :] = 0
    share = slice(rank, None, world_size)
    wrapped = (
        model
        if world_size == 1
        else DistributedDataParallel(model, find_unused_parameters=True)
    )
    losses = wrapped(images[share].double(), samples[share], mode='loss')
    model.parse_losses(losses)[0].backward()
    gradient = torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    )
    return {k: v.detach() for k, v in losses.items()}, gradient


def work(rank, world_size, folder):
    """What one of the processes does."""
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=world_size,
    )
    terms = {}
    for case, (_, _, first) in CASES.items():
        share = slice(first) if rank == 0 else slice(first, None)
        terms[case] = boundary_term(case, share, dist.group.WORLD)
    steps = {
        source: training_step(source, rank, world_size) for source in SOURCES
    }
    torch.save((terms, steps), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """Terms and steps of both processes."""
    folder = tmp_path_factory.mktemp('distributed')
    run_side_by_side(work, [(rank, 2, folder) for rank in range(2)], folder)
    return [torch.load(folder / f'{rank}.pt') for rank in range(2)]


@pytest.mark.parametrize('case', CASES)
def test_boundary_term_is_balanced_over_the_whole_batch(processes, case):
    expected, expected_grad = boundary_term(case)
    (loss_0, grad_0), (loss_1, grad_1) = (
        terms[case] for terms, _ in processes
    )
    torch.testing.assert_close((loss_0 + loss_1) / 2, expected)
    # DistributedDataParallel averages the gradients of the parameters.
    torch.testing.assert_close(torch.cat([grad_0, grad_1]) / 2, expected_grad)


@pytest.mark.parametrize('source', SOURCES)
def test_two_processes_learn_what_one_learns_from_both_batches(
    processes, source
):
    losses, gradient = training_step(source)
    (losses_0, gradient_0), (losses_1, gradient_1) = (
        steps[source] for _, steps in processes
    )
    assert torch.equal(gradient_0, gradient_1)
    assert {'distill.loss_bd', 'distill.loss_cd'} <= losses.keys()
    for name in ('distill.loss_bd', 'distill.loss_cd'):
        torch.testing.assert_close(
            (losses_0[name] + losses_1[name]) / 2, losses[name]
        )
    error = (gradient_0 - gradient).norm() / gradient.norm()
    assert error < 1e-10
