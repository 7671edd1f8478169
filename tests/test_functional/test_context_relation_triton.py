"""The fused kernels against both relations as float64 matrices.

They run in Triton's interpreter, in a process of its own because Triton
decides on import, and on a GPU where there is one. That they compile for
GPUs is tested without one.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mmbckd
from mmbckd.functional import context_relation

pytest.importorskip('triton', reason='Triton is not made for this platform')

# Student's and teacher's shape, options, dtype. A program has 128 rows and 64
# columns, takes 32 channels at a time and holds 128 of the gradient.
CASES = dict(
    several_tiles=((2, 20, 9, 17), (2, 37, 9, 17), dict(), 'float32'),
    whole_tiles=((1, 32, 16, 16), (1, 64, 16, 16), dict(), 'float32'),
    many_channels=((1, 150, 7, 10), (1, 9, 7, 10), dict(), 'float32'),
    without_self=(
        (2, 20, 9, 15),
        (2, 37, 9, 15),
        dict(exclude_self=True),
        'float32',
    ),
    centered=((2, 5, 8, 9), (2, 7, 8, 9), dict(center=True), 'float32'),
    resized=((1, 5, 8, 9), (1, 7, 12, 10), dict(tau=1.0), 'float32'),
    small_tau=((1, 8, 9, 8), (1, 3, 9, 8), dict(tau=0.01), 'float32'),
    small_tau_without_self=(
        (1, 8, 9, 8),
        (1, 3, 9, 8),
        dict(tau=0.01, exclude_self=True),
        'float32',
    ),
    lone_pixel=(
        (1, 4, 9, 15),
        (1, 4, 9, 15),
        dict(tau=0.02, exclude_self=True),
        'float32',
    ),
    one_pixel=((2, 3, 1, 1), (2, 4, 1, 1), dict(), 'float32'),
    one_pixel_without_self=(
        (2, 3, 1, 1),
        (2, 4, 1, 1),
        dict(exclude_self=True),
        'float32',
    ),
    bfloat16=((2, 20, 5, 7), (2, 37, 5, 7), dict(), 'bfloat16'),
)


def inputs(case):
    shape_s, shape_t, options, dtype = CASES[case]
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(shape, generator=generator).to(getattr(torch, dtype))
        for shape in (shape_s, shape_t)
    )
    if case == 'lone_pixel':
        student, teacher = student * 0.05 + 1, teacher * 0.001 + 1
        teacher[..., 0, 1] *= -1  # a pixel like no other
    else:
        student[0, :, 0, 0] = 0  # a pixel that relates to nothing
    return student, teacher, options


def compute(path, device):
    """Value, value without gradient and gradient of each case, to a file."""
    context_relation._runs_triton = lambda f: f.device.type == device
    results = {}
    for case in CASES:
        student, teacher, options = inputs(case)
        student, teacher = student.to(device), teacher.to(device)
        with torch.no_grad():
            value = context_relation.relation_kl(student, teacher, **options)
        student.requires_grad_()
        loss = context_relation.relation_kl(student, teacher, **options)
        loss.backward()
        results[case] = [x.cpu() for x in (loss.detach(), value, student.grad)]
    torch.save(results, path)


def brute_force(case):
    """Loss and gradient in float64, from matrices."""
    student, teacher, options = inputs(case)
    student = student.double().requires_grad_()
    teacher = torch.nn.functional.interpolate(
        teacher.double(), student.shape[2:], mode='bilinear'
    )
    log_r = []
    for f in (student, teacher):
        f = f.flatten(2)
        if options.get('center'):
            f = f - f.mean(2, keepdim=True)
        norm = torch.linalg.vector_norm(f, dim=1, keepdim=True)
        f = f / norm.where(norm > 0, torch.inf)
        logits = f.mT @ f / options.get('tau', 0.1)
        if options.get('exclude_self'):
            logits = logits - 1e9 * torch.eye(logits.shape[1])
        log_r.append(logits.log_softmax(2))
    loss = (log_r[1].exp() * (log_r[1] - log_r[0])).sum(2).mean()
    loss.backward()
    return loss.detach(), student.grad


DEVICES = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']


@pytest.fixture(scope='module', params=DEVICES)
def results(request, tmp_path_factory):
    path = tmp_path_factory.mktemp('triton') / 'results.pt'
    environ = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONPATH=str(Path(mmbckd.__file__).parents[1]),
    )
    if request.param == 'cpu':
        environ['TRITON_INTERPRET'] = '1'
    done = subprocess.run(
        [sys.executable, __file__, path, request.param],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return request.param, torch.load(path)


@pytest.mark.parametrize('case', CASES)
def test_kernels_equal_matrices_in_float64(results, case):
    device, computed = results
    loss, value, grad = computed[case]
    expected, expected_grad = brute_force(case)
    # The gradient comes back in the student's precision. Of such features a
    # GPU multiplies TF32, with 11 significant bits of the normalized ones.
    low = grad.dtype == torch.bfloat16
    loss_rtol = 2e-3 if low and device == 'cuda' else 2e-5
    rtol = 5e-3 if low else 1e-4
    assert loss.dtype == torch.float32
    assert torch.equal(value, loss)
    torch.testing.assert_close(
        loss.double(), expected, rtol=loss_rtol, atol=1e-6
    )
    error = (grad.double() - expected_grad).norm()
    assert error <= rtol * expected_grad.norm() + 1e-6


@pytest.mark.parametrize(
    'capability, precision', [(80, 'tf32'), (90, 'tf32x3')]
)
def test_kernels_compile_and_fit_into_shared_memory(
    tmp_path, monkeypatch, capability, precision
):
    import triton
    from triton.backends.compiler import GPUTarget

    from mmbckd.functional import context_relation_triton

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    constants = dict(
        C=512,
        C_S=128,
        C_T=512,
        BLOCK_C=context_relation_triton._MAX_BLOCK_C,
        WITH_GRAD=True,
        EXCLUDE_SELF=True,
        PRECISION=precision,
        BLOCK_ROWS=context_relation_triton._BLOCK_ROWS,
        BLOCK_COLS=context_relation_triton._BLOCK_COLS,
        BLOCK_K=context_relation_triton._BLOCK_K,
    )
    for kernel in (
        context_relation_triton._row_sums_kernel,
        context_relation_triton._relation_kl_kernel,
    ):
        types = {
            name: 'constexpr' if name in constants else '*fp32'
            for name in kernel.arg_names
        }
        types['num_pixels'] = 'i32'
        compiled = triton.compile(
            triton.compiler.ASTSource(
                kernel,
                types,
                constexprs={n: constants[n] for n in types if n in constants},
            ),
            target=GPUTarget('cuda', capability, 32),
            options=context_relation_triton._LAUNCH,
        )
        # That of the GPUs that have least (capability 8.6 and 8.9).
        assert compiled.metadata.shared <= 99 * 1024


def features(is_cuda=True, dtype=torch.float32):
    return SimpleNamespace(is_cuda=is_cuda, dtype=dtype, device='cuda:0')


@pytest.mark.parametrize(
    'expected, f, capability',
    [
        (True, features(), (8, 0)),
        (True, features(), (9, 0)),
        (False, features(), (7, 5)),
        (False, features(dtype=torch.float64), (9, 0)),
        (False, features(is_cuda=False), (9, 0)),
    ],
)
def test_kernels_run_where_there_are_tf32_units_only(
    monkeypatch, expected, f, capability
):
    monkeypatch.setattr(
        torch.cuda, 'get_device_capability', lambda device: capability
    )
    assert context_relation._runs_triton(f) == expected


@pytest.mark.parametrize(
    'expected, student, teacher, allowed',
    [
        (False, torch.float32, torch.float32, False),
        (True, torch.float32, torch.float32, True),
        (False, torch.float32, torch.bfloat16, False),
        (True, torch.bfloat16, torch.float16, False),
    ],
)
def test_tf32_is_used_when_allowed_or_when_features_hold_less(
    expected, student, teacher, allowed
):
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        found = context_relation._may_use_tf32(
            torch.zeros(1, dtype=student), torch.zeros(1, dtype=teacher)
        )
    finally:
        matmul.allow_tf32 = before
    assert found == expected


if __name__ == '__main__':
    compute(*sys.argv[1:])
