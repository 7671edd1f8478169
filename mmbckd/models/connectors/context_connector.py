from collections.abc import Sequence

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
        max_tokens (int, optional): Average-pool a map, by the smallest whole
            factor, until it has at most this many pixels. Defaults to None:
            every pixel is kept.
        in_channels (int, optional): Channels of the input, needed for a
            projection. Defaults to None.
        out_channels (int, optional): Project the features by a learnt 1x1
            convolution to this many channels. Defaults to None: no
            projection, the relations need none.
        init_cfg (dict | list[dict], optional): Initialization config of
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
                '`max_tokens` of ContextConnector must be at '
                f'least 1, but got {max_tokens}.'
            )
        if (in_channels is None) != (out_channels is None):
            raise ValueError(
                'A projection of ContextConnector needs both `in_channels` '
                f'and `out_channels`, but got {in_channels} and '
                f'{out_channels}.'
            )
        self.max_tokens = max_tokens
        self.project = (
            nn.Identity()
            if out_channels is None
            else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )
        # MMRazor's distillers keep connectors in a plain nn.ModuleDict, which
        # the runner's init_weights does not enter.
        if self.init_cfg:
            self.init_weights()

    def _pool(self, feature: Tensor) -> Tensor:
        height, width = feature.shape[-2:]
        factor = 1
        while -(-height // factor) * -(-width // factor) > self.max_tokens:
            factor += 1
        return F.avg_pool2d(
            feature, factor, ceil_mode=True, count_include_pad=False
        )

    def forward_train(
        self, feature: Tensor | Sequence[Tensor]
    ) -> Tensor | Sequence[Tensor]:
        """Return the pooled and projected map(s)."""
        if not isinstance(feature, Tensor):
            return [self.forward_train(f) for f in feature]
        if self.max_tokens is not None:
            feature = self._pool(feature)
        return self.project(feature)
