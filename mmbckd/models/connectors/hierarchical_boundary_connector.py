from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class HierarchicalBoundaryConnector(BaseConnector):
    """The head that reads a boundary map off hierarchical features.

    ``e_l = ReLU(GN(Conv1x1_l(F_l)))``, ``z = Conv1x1(concat_l up(e_l))`` at
    the finest of the strides; ``sigmoid(z)`` is the boundary probability B.
    It is trained with the student and dropped afterwards.

    Args:
        in_channels (int | Sequence[int] | None): Channels of each feature
            map. Defaults to None: to be told by
            :meth:`set_in_channels` before the optimizer is built, as
            :class:`BCKDDistiller` does.
        channels (int): Channels d that each map is embedded in, a multiple
            of ``num_groups``. Defaults to 32.
        num_groups (int): Groups of the group normalization. Defaults to 4.
        init_cfg (dict | list[dict] | None): Initialization config of
            mmengine, applied as soon as the layers are built.

    Shape:
        - feature: a map (N, C_l, H_l, W_l) or a sequence of them.
        - returns: (N, 1, H_1, W_1), logits z, at the size of the largest map.

    References:
        - Ahn, Cho, Kwak. Weakly Supervised Learning of Instance Segmentation
          with Inter-pixel Relations. CVPR 2019 (the boundary branch).
    """

    def __init__(
        self,
        in_channels: int | Sequence[int] | None = None,
        channels: int = 32,
        num_groups: int = 4,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if channels % num_groups:
            raise ValueError(
                'Expected `channels` of HierarchicalBoundaryConnector to be a '
                f'multiple of `num_groups`={num_groups}, but got {channels}.'
            )
        self.channels = channels
        self.num_groups = num_groups
        self.in_channels: list | None = None
        if in_channels is not None:
            self.set_in_channels(
                [in_channels] if isinstance(in_channels, int) else in_channels
            )

    def set_in_channels(self, in_channels: Sequence[int]) -> None:
        """Build the layers for feature maps of these channels.

        Args:
            in_channels (Sequence[int]): Channels of each feature map.
        """
        self.in_channels = list(in_channels)
        self.embeds = nn.ModuleList(
            ConvModule(
                c,
                self.channels,
                kernel_size=1,
                norm_cfg=dict(type='GN', num_groups=self.num_groups),
            )
            for c in self.in_channels
        )
        self.predict = nn.Conv2d(
            self.channels * len(self.in_channels), 1, kernel_size=1
        )
        # MMRazor's distillers keep connectors in a plain nn.ModuleDict, which
        # the runner's init_weights does not enter.
        if self.init_cfg:
            self.is_init = False  # these layers are new
            self.init_weights()

    def forward_train(self, feature: Tensor | Sequence[Tensor]) -> Tensor:
        """Return boundary logits, see the class for the shapes.

        Raises:
            ValueError: If the maps are not those the head was built for.
        """
        features = [feature] if isinstance(feature, Tensor) else feature
        got = [f.shape[1] for f in features]
        if got != self.in_channels:
            raise ValueError(
                'HierarchicalBoundaryConnector was built for feature maps of '
                f'{self.in_channels} channels, but got {got}. Set '
                f'`in_channels={got}`, or record another module.'
            )
        size = max((f.shape[-2:] for f in features), key=lambda s: s.numel())
        # The last convolution and the upsampling are linear and commute, so
        # that one channel is upsampled instead of all.
        weights = self.predict.weight.split(self.channels, dim=1)
        z = self.predict.get_parameter('bias').view(1, 1, 1, 1)
        for embed, f, weight in zip(self.embeds, features, weights):
            z = z + F.interpolate(
                F.conv2d(embed(f), weight),
                size=size,
                mode='bilinear',
                align_corners=False,
            )
        return z
