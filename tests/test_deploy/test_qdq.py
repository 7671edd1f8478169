"""The graph of an INT8 file, and what ONNX Runtime makes of it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from mmbckd.deploy.qdq import quantize_before_clips

GRAPH = """
<ir_version: 8, opset_import: ["": 18]>
graph (float[1, 2, 8, 8] image) => (float[1, 2, 8, 8] out)
<float xs = {{0.03125}}, uint8 xz = {{128}}, float s = {{{scale}}},
 uint8 z = {{0}}, float low = {{0}}, float high = {{6}}, int8 wz = {{0}},
 int8[2, 2, 1, 1] w = {{90, -70, 33, 127}}, float ws = {{0.0625}}>
{{
  xq = QuantizeLinear(image, xs, xz)
  x = DequantizeLinear(xq, xs, xz)
  weight = DequantizeLinear(w, ws, wz)
  sum = Conv(x, weight)
  act = Clip(sum, low, high)
  q = QuantizeLinear(act, s, z)
  out = DequantizeLinear(q, s, z)
}}
"""


@pytest.mark.parametrize(
    'scale, inserted', [(6 / 255, 0), (0.02359, 1), (0.03125, 1)]
)
def test_convolution_before_a_clip_is_in_integers(scale, inserted, tmp_path):
    proto = parser.parse_model(GRAPH.format(scale=scale))
    image = np.random.default_rng(0).normal(size=(1, 2, 8, 8))
    given = dict(image=image.astype(np.float32))
    before = onnxruntime.InferenceSession(proto.SerializeToString())
    quantize_before_clips(proto)
    onnx.checker.check_model(proto, full_check=True)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count('QuantizeLinear') == 2 + inserted
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimized.onnx')
    after = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    optimized = onnx.load(options.optimized_model_filepath)
    assert 'QLinearConv' in {node.op_type for node in optimized.graph.node}
    (truth,), (found,) = (x.run(None, given) for x in (before, after))
    np.testing.assert_array_equal(found, truth)
    assert found.max() == pytest.approx(round(6 / scale) * scale)
