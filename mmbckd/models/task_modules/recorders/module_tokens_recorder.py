from collections.abc import Sequence
from math import ceil

from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn


@TASK_UTILS.register_module()
class ModuleTokensRecorder(ModuleOutputsRecorder):
    """Record the tokens that a module of a ViT puts out as a map.

    The grid is that of the patches of the input: of the images that the
    module's own top module, such as the backbone, is called with. Where they
    are not divisible, the last patches are taken to be padded.

    Args:
        source (str): Name of the module, such as ``'backbone.layers.11'``.
        patch_size (int): Height and width of a patch in pixels. Defaults to
            16.
        num_prefix (int): Tokens before those of the patches, which are left
            out: those of the class and of registers. Defaults to 1.

    Raises:
        ValueError: If the tokens are not as many.

    Shape:
        - output of the module: (N, num_prefix + h * w, C), row by row
        - records: (N, C, h, w), with h and w the height and width of the
          input divided by ``patch_size``, rounded up

    Example:
        >>> teacher = dict(
        ...     type='ModuleTokens',
        ...     source='backbone.layers.11',
        ...     patch_size=16)
    """

    def __init__(
        self, source: str, patch_size: int = 16, num_prefix: int = 1
    ) -> None:
        super().__init__(source)
        self.patch_size = patch_size
        self.num_prefix = num_prefix
        self._size: Sequence[int] = ()

    def prepare_from_model(self, model: nn.Module) -> None:
        """Hook the module, and the one that gets the images."""
        super().prepare_from_model(model)
        top = model.get_submodule(self.source.partition('.')[0])
        top.register_forward_pre_hook(self._see_images)

    def _see_images(self, module: nn.Module, inputs: tuple) -> None:
        self._size = inputs[0].shape[-2:]

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Tensor
    ) -> None:
        """Record the tokens of a call."""
        if self.recording:
            self.data_buffer.append(self._map(outputs))

    def _map(self, tokens: Tensor) -> Tensor:
        height, width = (ceil(side / self.patch_size) for side in self._size)
        expected = self.num_prefix + height * width
        shape: tuple = tuple(getattr(tokens, 'shape', ()))
        if len(shape) != 3 or shape[1] != expected:
            got = shape or type(tokens).__name__
            size = 'x'.join(map(str, self._size))
            raise ValueError(
                f'Expected tokens of "{self.source}" in the shape (N, '
                f'{expected}, C), {self.num_prefix} and then {height} x '
                f'{width} patches of {self.patch_size} pixels in an input of '
                f'{size}, but got {got}. Set `num_prefix` and `patch_size` of '
                'its recorder to those of the model; maps need the recorder '
                "'ModuleOutputs'."
            )
        patches = tokens[:, self.num_prefix :]
        return patches.transpose(1, 2).unflatten(2, (height, width))
