"""publish_model keeps the weights, and those that float16 cannot hold as they
are."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'model_converters'))
    import publish_model

    return publish_model


def test_half_leaves_out_what_it_cannot_hold(tool, tmp_path, monkeypatch):
    source, target = tmp_path / 'iter_9.pth', tmp_path / 'model.pth'
    weights = {
        'conv.weight': torch.tensor([1.0, -2.5]),
        'bn.running_var': torch.tensor([1e5, 1.0]),
        'bn.num_batches_tracked': torch.tensor(9),
    }
    torch.save(
        dict(state_dict=weights, meta=dict(iter=9), optimizer={}), source
    )
    monkeypatch.setattr(
        sys, 'argv', ['publish_model', str(source), str(target), '--half']
    )
    tool.main()
    published = torch.load(target, weights_only=False)
    assert 'optimizer' not in published
    found = published['state_dict']
    assert found['conv.weight'].dtype == torch.float16
    for name, tensor in weights.items():
        assert torch.equal(found[name].to(tensor.dtype), tensor), name
