"""The whole step: its modes, its precisions, and what it leaves behind."""

import copy
import gc

import pytest
import torch
from mmrazor.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from tests.segmentors import batch, cnn_segmentor, transformer_segmentor

FEATURE = dict(type='ModuleInputs', source='decode_head.conv_seg')


def algorithm(source='semantic', teacher=None, **distiller):
    """Both terms, with a wider CNN, or ``teacher``, as the teacher."""
    torch.manual_seed(0)
    teacher_side = dict(
        semantic=dict(teacher='decode_head.conv_seg'),
        feature=dict(teacher='backbone'),
        label=dict(),
    )[source]
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=cnn_segmentor(dropout=0.0),
            teacher=teacher or cnn_segmentor(base_channels=16),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    student='backbone',
                    source=source,
                    channels=8,
                    num_groups=4,
                    **teacher_side,
                ),
                context=dict(student=FEATURE, teacher=FEATURE),
                **distiller,
            ),
        )
    )
    return model.train()


def step(model, images, samples):
    """Losses by name, after backward."""
    model.zero_grad()
    losses = model(images, samples, mode='loss')
    loss, log_vars = model.parse_losses(losses)
    loss.backward()
    return log_vars


def distill_terms(log_vars):
    return {k: float(v) for k, v in log_vars.items() if 'distill' in k}


def test_teacher_runs_in_inference_mode():
    model, modes = algorithm(), []
    model.teacher.backbone.register_forward_hook(
        lambda *_: modes.append(torch.is_inference_mode_enabled())
    )
    step(model, *batch())
    assert modes == [True]


@pytest.mark.parametrize('source', ['semantic', 'feature', 'label'])
def test_losses_may_save_the_teachers_tensors_for_backward(source):
    """MMRazor's CWD multiplies by the teacher's softmax."""
    logits = dict(type='ModuleOutputs', source='decode_head.conv_seg')
    model = algorithm(
        source,
        student_recorders=dict(logits=logits),
        teacher_recorders=dict(logits=logits),
        distill_losses=dict(loss_cwd=dict(type='ChannelWiseDivergence')),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    )
    terms = distill_terms(step(model, *batch()))
    assert len(terms) == 3 and all(v > 0 for v in terms.values())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_changes_the_terms_by_rounding_only(dtype):
    images, samples = batch()
    model = algorithm()
    expected = distill_terms(step(model, images, samples))
    with torch.autocast('cpu', dtype):
        actual = distill_terms(step(model, images, samples))
    assert actual == pytest.approx(expected, rel=0.05)
    stem = model.student.backbone.stem[0].weight.grad
    assert torch.isfinite(stem).all() and stem.abs().sum() > 0


@pytest.mark.parametrize('teacher', [None, transformer_segmentor()])
def test_channels_last_gives_the_same_step(teacher):
    images, samples = batch()
    model = algorithm(teacher=teacher)
    last = copy.deepcopy(model.state_dict())
    expected = step(model, images, samples)
    grad = model.student.backbone.stem[0].weight.grad.clone()
    model.load_state_dict(last)
    model.to(memory_format=torch.channels_last)
    actual = step(model, images.to(memory_format=torch.channels_last), samples)
    for key, value in expected.items():
        assert float(actual[key]) == pytest.approx(float(value), rel=1e-4)
    torch.testing.assert_close(
        model.student.backbone.stem[0].weight.grad, grad, rtol=1e-2, atol=1e-4
    )


def test_compiled_student_gives_the_same_step():
    images, samples = batch()
    model = algorithm()
    state = copy.deepcopy(model.state_dict())
    expected = step(model, images, samples)
    model.load_state_dict(state)
    student = model.student
    student.forward = torch.compile(student.forward, backend='eager')
    actual = step(model, images, samples)
    for key, value in expected.items():
        assert float(actual[key]) == pytest.approx(float(value), rel=1e-4)


class _Syncs(TorchDispatchMode):
    """Collect the operators that make the host wait for the device."""

    names = (
        '_local_scalar_dense',
        'nonzero',
        'equal',
        'masked_select',
        'is_nonzero',
        'unique',
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.names or name.startswith('_unique'):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('source', ['semantic', 'feature', 'label'])
def test_the_terms_never_wait_for_the_device(source):
    model = algorithm(source)
    model.calculate_student_loss = False
    with _Syncs() as syncs:
        losses = model(*batch(), mode='loss')
        # Not parse_losses, which is mmengine's.
        sum(losses.values()).backward()
    assert len(losses) == 2 and syncs.found == []


def test_steps_leave_no_tensors_behind():
    """Whatever their shapes."""
    model = algorithm()

    def live(side):
        step(model, *batch(side=side))
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    live(64)
    counts = {live(side) for side in (64, 96, 64)}
    assert len(counts) == 1
