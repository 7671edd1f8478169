"""How well features show the edges of instances, by the tool edge_auc.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS

from tests.detectors import detector, sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
    import edge_auc

    return edge_auc


def quarters():
    """A map of four instances whose edges lie between cells of the stride."""
    ids = torch.arange(4).view(2, 2)
    return ids.repeat_interleave(32, 0).repeat_interleave(32, 1)


def test_area_is_the_share_of_well_ordered_pixels(tool):
    """Of all pairs of a pixel on an edge and one off it, ties by half."""
    ids = quarters()
    torch.manual_seed(0)
    noisy = F.one_hot(ids[::4, ::4]).permute(2, 0, 1)[None].float()
    noisy = noisy + torch.randn(1, 4, 16, 16)
    blank = torch.zeros(1, 1, 16, 16)
    edges = tool.affinity_edges(blank, noisy, source='feature')[0, 0]
    on = np.zeros((16, 16), bool)
    on[7:9] = on[:, 7:9] = True
    pairs = edges.numpy()[on][:, None], edges.numpy()[~on]
    expected = np.mean((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1]))
    assert 0.5 < expected < 1
    assert tool.edge_auc([noisy], ids) == pytest.approx(expected)


def test_the_instances_themselves_have_an_area_of_one(tool):
    ids = quarters()
    perfect = F.one_hot(ids[::4, ::4]).permute(2, 0, 1)[None].float()
    assert tool.edge_auc([perfect], ids) == 1
    assert tool.edge_auc([torch.ones(1, 3, 16, 16)], ids) == 0.5


def test_each_level_and_all_together_are_measured(tool):
    model = MODELS.build(detector()).eval()
    masks = torch.stack([quarters() == i for i in (1, 2)]).numpy()
    data = dict(
        inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)],
        data_samples=[sample(masks)],
    )
    empty = dict(data, data_samples=[sample(masks[:0], shape=(64, 64))])
    found = tool.measure(model, [data, empty, data], ['backbone', 'neck'])
    assert list(found) == [
        'backbone',
        *(f'backbone[{i}]' for i in range(4)),
        'neck',
        *(f'neck[{i}]' for i in range(3)),
    ]
    assert {row['images'] for row in found.values()} == {2}
    level = model.extract_feat(model.data_preprocessor(data, False)['inputs'])[
        0
    ].detach()
    ids = quarters()
    ids[ids == 3] = 0  # instances 1 and 2 on a background
    assert found['neck[0]']['auc'] == pytest.approx(
        tool.edge_auc([level], ids)
    )
