from collections.abc import Sequence
from math import ceil

import torch.nn.functional as F
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ContextConnector(BaseConnector):
    """Optional pooling and projection of the features whose relations are
    distilled.

    Args:
        max_tokens (int | None): Average-pool a map, by the smallest whole
            factor, until it has at most this many pixels. Defaults to None:
            every pixel is kept.
        in_channels (int | None): Channels of the input, needed for a
            projection. Defaults to None.
        out_channels (int | None): Project the features by a learned 1x1
            convolution to this many channels. Defaults to None: no
            projection, the relations need none.
        init_cfg (dict | list[dict] | None): Initialization config of
            mmengine, applied as soon as the projection is built.

    Shape:
        - feature: (N, C, H, W), or a sequence of such maps.
        - returns: (N, C', ceil(H / k), ceil(W / k)) with the smallest whole k
          that satisfies ``max_tokens``; a list of such maps for a sequence.
    """

    def __init__(
        self,
        max_tokens: int | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(
                'Expected `max_tokens` of ContextConnector to be at least 1, '
                f'but got {max_tokens}.'
            )
        self.max_tokens = max_tokens
        self.project: nn.Module
        if in_channels is not None and out_channels is not None:
            self.project = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        elif in_channels is out_channels is None:
            self.project = nn.Identity()
        else:
            raise ValueError(
                'Expected both `in_channels` and `out_channels` for a '
                f'projection of ContextConnector, but got {in_channels} and '
                f'{out_channels}.'
            )
        # MMRazor's distillers keep connectors in a plain nn.ModuleDict, which
        # the runner's init_weights does not enter.
        if self.init_cfg:
            self.init_weights()

    def forward_train(
        self, feature: Tensor | Sequence[Tensor]
    ) -> Tensor | list[Tensor]:
        """Return the pooled and projected map(s)."""
        if isinstance(feature, Tensor):
            return self._pool_and_project(feature)
        return [self._pool_and_project(f) for f in feature]

    def _pool_and_project(self, feature: Tensor) -> Tensor:
        if self.max_tokens is not None:
            feature = _pooled(feature, self.max_tokens)
        return self.project(feature)


def _pooled(feature: Tensor, max_tokens: int) -> Tensor:
    """The average over squares of k x k pixels, with the smallest k that
    leaves at most ``max_tokens``."""
    height, width = feature.shape[-2:]
    k = 1
    while ceil(height / k) * ceil(width / k) > max_tokens:
        k += 1
    if k == 1:  # also a map without pixels, which cannot be pooled
        return feature
    return F.avg_pool2d(feature, k, ceil_mode=True, count_include_pad=False)
