"""The benchmarks measure what they say."""

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    import _measure

    return _measure


def allocate(num_bytes):
    """A run with a temporary buffer, beside an input that does not count."""
    held = torch.ones(50 * MIB, dtype=torch.uint8)

    def run():
        torch.ones(num_bytes, dtype=torch.uint8)
        assert len(held)

    return run


def fail(num_bytes):
    raise SystemExit('out of memory')


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_peak_memory_is_that_of_the_temporary_buffers(measure):
    found = measure.peak_memory(allocate, 100 * MIB, small=(MIB,))
    assert found == pytest.approx(100 * MIB, rel=0.02)


def test_a_run_that_dies_is_named(measure):
    with pytest.raises(RuntimeError, match=r'fail\(8,\) ended'):
        measure.peak_memory(fail, 8, small=(8,))


def test_runs_take_turns_and_the_first_turn_does_not_count(
    measure, monkeypatch
):
    clock, calls = [0.0], []
    monkeypatch.setattr(
        measure,
        'time',
        SimpleNamespace(
            perf_counter=lambda: clock[0], process_time=lambda: clock[0] / 2
        ),
    )

    def run(name, durations):
        calls.append(name)
        clock[0] += next(durations)

    a, b = iter([64.0, 1.0, 4.0, 2.0]), iter([64.0, 8.0, 8.0, 16.0])
    found = measure.seconds(
        dict(a=lambda: run('a', a), b=lambda: run('b', b)), repeats=3
    )
    assert calls == ['a', 'b'] * 4
    assert found['a'] == dict(seconds=2, fastest=1, slowest=4, cpu_seconds=1)
    assert found['b'] == dict(seconds=8, fastest=8, slowest=16, cpu_seconds=4)


@pytest.fixture
def context_relation(measure):
    return importlib.import_module('context_relation')


def test_plain_relation_is_what_ours_is_compared_with(context_relation):
    # The processes that measure memory import this file, and wait for this.
    from mmbckd.functional import relation_kl

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 8, 5, 6, generator=generator)
    torch.testing.assert_close(
        context_relation.plain(student, teacher), relation_kl(student, teacher)
    )


def test_context_relation_writes_seconds_memory_and_ratios(
    context_relation, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        context_relation,
        'peak_memory',
        lambda _, name, *args, **kwargs: dict(plain=200, ours=30)[name],
    )
    monkeypatch.setattr(context_relation, 'matmul_rate', lambda *args: 1e9)
    monkeypatch.setattr(context_relation, 'PLAIN_LIMIT', 5 * 4 * 100**2)
    out = tmp_path / 'folder' / 'out.json'
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'context_relation.py',
            '--out',
            str(out),
            '--sizes',
            '8x9',
            '16x32',
            '--repeats',
            '1',
        ],
    )
    context_relation.main()
    found = json.loads(out.read_text())
    assert found['environment']['torch'] == version('torch')
    small, large = found['rows']
    assert (small['pixels'], large['pixels']) == (72, 512)
    assert small['ratio']['peak_memory'] == 0.15
    assert small['ratio']['seconds'] == (
        small['ours']['seconds'] / small['plain']['seconds']
    )
    assert 'plain' not in large  # too large for it
    assert large['ours']['share_of_matmul_rate'] == pytest.approx(
        512**2 * (4 * 128 + 2 * 512) / large['ours']['seconds'] / 1e9
    )


def test_onnx_files_run_on_every_backend_and_relate_to_the_first(
    measure, monkeypatch, tmp_path
):
    onnx_inference = importlib.import_module('onnx_inference')
    image, output = (
        helper.make_tensor_value_info(
            name, TensorProto.UINT8, ['batch', 3, 4, 6]
        )
        for name in ('image', 'labels')
    )
    node = helper.make_node('Identity', ['image'], ['labels'])
    graph = helper.make_graph([node], 'identity', [image], [output])
    opset = helper.make_opsetid('', 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    files = [str(tmp_path / name) for name in ('a.onnx', 'b.onnx')]
    for file in files:
        onnx.save(model, file)
    out = tmp_path / 'out.json'
    monkeypatch.setattr(
        sys,
        'argv',
        ['onnx_inference.py', '--out', str(out), '--threads', '1', *files],
    )
    onnx_inference.main()
    found = json.loads(out.read_text())
    assert found['environment']['openvino'] == version('openvino')
    assert [(row['file'], row['backend']) for row in found['rows']] == [
        (file, backend)
        for file in ('a.onnx', 'b.onnx')
        for backend in ('onnxruntime', 'openvino')
    ]
    first, *_, last = found['rows']
    assert first['ratio']['seconds'] == 1
    assert last['size'] == [4, 6]
    assert last['ratio']['seconds'] == last['seconds'] / first['seconds']
