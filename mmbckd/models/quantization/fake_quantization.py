"""Fake quantization of a model, as a chip with 8-bit integers computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from mmengine.config import Config
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...deploy.interface import check_model
from ...deploy.quantization import ACTIVATIONS
from ..utils import type_name
from .plan import Layer, Plan, Site
from .quantizers import ActivationQuantizer, LayerQuantizer

WEIGHT_BITS = range(2, 9)


class FakeQuantization(nn.Module):
    """Fake quantization in the forward of a model, by hooks.

    The weights of the convolutions and linear layers that the model runs in
    inference are rounded to ``weight_bits`` with a scale for each output
    channel, and their biases to 32 bits; what these layers read and what they
    give, after the norm and the activation function that follow, is rounded
    to 8 bits with one scale for a tensor. Batch norms that follow a
    convolution are folded into it when the quantization is calibrated: they
    stay in the model with a scale of 1, for their bias, and in eval mode. Thus
    the model keeps its classes, the names of its modules and those of its
    weights, whoever records one of its modules sees quantized values, and its
    weights alone are a plain checkpoint of the float model.

    Args:
        model (BaseModel): A segmentor (``EncoderDecoder``) or a detector of
            one stage. It is changed: hooks are registered.
        weight_bits (int): 2 to 8. Defaults to 8.
        activations (str): 'uint8' with a zero point, or for TensorRT 'int8'
            without. Defaults to 'uint8'.
        exclude (Sequence[str]): Layers to keep in float: 'decode_head' is all
            of it. Defaults to none.
        power_of_two_scales (bool): Whether all scales are powers of two. A
            chip then shifts instead of multiplying, and float32 computes
            exactly what it does. Defaults to None: if weights have 8 bits,
            since with fewer they lose too much.

    Attributes:
        power_of_two_scales (bool): Whether they are.
        signed (bool): Whether activations are 'int8'.
        left (list[str]): Layers with weights that stay in float, with their
            types.

    Raises:
        TypeError: If the model is of another kind.
        ValueError: If an option is unknown, or there is nothing to quantize.

    References:
        Jacob et al.: Quantization and Training of Neural Networks for
        Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
    """

    calibrated: Tensor
    options: Tensor

    def __init__(
        self,
        model: BaseModel,
        weight_bits: int = 8,
        activations: str = 'uint8',
        exclude: Sequence[str] = (),
        power_of_two_scales: bool | None = None,
    ) -> None:
        super().__init__()
        if isinstance(weight_bits, bool) or weight_bits not in WEIGHT_BITS:
            raise ValueError(
                'Expected `weight_bits` to be an integer from 2 to 8, but got '
                f'{weight_bits!r}. Chips have 8 or 4.'
            )
        if activations not in ACTIVATIONS:
            raise ValueError(
                f'Expected `activations` to be one of {ACTIVATIONS}, but got '
                f'{activations!r}.'
            )
        # A runner without processes would replace them, hooks and all. What
        # is folded has fixed statistics, of which there is nothing to sync.
        revert_sync_batchnorm(model)
        check_model(model)
        if power_of_two_scales is None:
            power_of_two_scales = weight_bits == 8
        self.power_of_two_scales = power_of_two_scales
        self.signed = activations == 'int8'
        plan = Plan(model, [exclude] if isinstance(exclude, str) else exclude)
        self._mode = 'quantize'
        # In a list: it is no part of this module.
        self._model = [model]
        self._folds = plan.folds
        self.left = plan.left
        self.activations = nn.ModuleDict()
        self.register_buffer('calibrated', torch.tensor(False))
        # A checkpoint's scales are those of these options only.
        self.register_buffer(
            'options',
            torch.tensor([weight_bits, self.signed, power_of_two_scales]),
        )
        modules = dict(model.named_modules())
        found: dict[Site | None, ActivationQuantizer] = {}
        for name, side in plan.sites:
            quantizer = ActivationQuantizer(
                f'{side} of {name}',
                self.signed,
                power_of_two_scales,
            )
            # First of all hooks, so that recorders see what it gives.
            if side == 'input':
                modules[name].register_forward_pre_hook(
                    quantizer.on_input, prepend=True
                )
            else:
                modules[name].register_forward_hook(
                    quantizer.on_output, prepend=True
                )
            found[name, side] = quantizer
            # A key must not have dots.
            self.activations[f'{name.replace(".", "/")}:{side}'] = quantizer
        self.layers = [
            LayerQuantizer(
                layer.module,
                weight_bits,
                layer.norm,
                found.get(layer.source),
                power_of_two_scales,
            )
            for layer in plan.layers
        ]
        for layer, norm in self._folds:
            norm.weight.requires_grad_(False)
            norm.eval()
            if layer.bias is not None:
                layer.bias.requires_grad_(False)
        model.register_forward_pre_hook(self._check_calibrated)
        self.to(next(model.parameters()).device)
        print_log(
            f'Fake quantization of {len(plan.layers)} layers '
            f'({weight_bits}-bit weights) and {len(plan.sites)} activations '
            f'({activations}), scales '
            f'{"of powers of two" if power_of_two_scales else "in float"}; '
            f'{len(plan.folds)} batch norms are folded. '
            f'Left in float: {", ".join(plan.left) or "no layer"}.',
            logger='current',
        )

    @property
    def model(self) -> BaseModel:
        """The model whose forward is quantized."""
        return self._model[0]

    def _activations(self) -> Iterable[ActivationQuantizer]:
        return cast(Iterable[ActivationQuantizer], self.activations.values())

    def _check_calibrated(self, module: nn.Module, args: tuple) -> None:
        if not self.calibrated and self._mode == 'quantize':
            raise ValueError(
                'Expected calibrated activations, but nothing has fixed their '
                'ranges yet. Train with dict(type="CalibrationHook") among '
                'the `custom_hooks`; test a checkpoint of that training.'
            )

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        run = 'keep' if mode == 'quantize' and not self.calibrated else mode
        quantizers: list[LayerQuantizer | ActivationQuantizer] = [
            *self.layers,
            *self._activations(),
        ]
        for quantizer in quantizers:
            function = getattr(quantizer, run)
            quantizer.run = function() if run == 'trace' else function

    @contextmanager
    def mode(self, mode: str):
        """Another mode for a while.

        Args:
            mode (str): 'keep' for the float model, 'observe' to note the
                ranges of its activations, 'quantize', or 'trace' for the
                same in operators that PyTorch can export.
        """
        before = self._mode
        self._set_mode(mode)
        try:
            yield
        finally:
            self._set_mode(before)

    @torch.no_grad()
    def calibrate(self, images: Iterable[Tensor]) -> None:
        """Fold the batch norms, and fix the ranges of the activations.

        Args:
            images (Iterable[Tensor]): Normalized images, (N, 3, H, W) each.

        Raises:
            ValueError: If there are none, or an activation has NaN or
                infinity.
        """
        for layer, norm in self._folds:
            fold_norm(layer, norm)
        for quantizer in self._activations():
            quantizer.low, quantizer.high = torch.inf, -torch.inf
        training = self.model.training
        self.model.eval()
        count = 0
        with self.mode('observe'):
            for count, image in enumerate(images, 1):  # noqa: B007
                self.model(image, mode='tensor')
        self.model.train(training)
        self.train(training)
        if not count:
            raise ValueError(
                'Expected images to calibrate with, but there are none. Some '
                'tens of training images are enough.'
            )
        for quantizer in self._activations():
            quantizer.set_range()
        self.calibrated.fill_(True)
        # GPUs may differ in the last digit, and would never agree again.
        for quantizer in self._activations():
            for value in quantizer.state_dict().values():
                broadcast(value)
        for layer, norm in self._folds:
            for value in (*layer.parameters(), *norm.parameters()):
                broadcast(value.data)
        self._set_mode(self._mode)

    def train(self, mode: bool = True) -> FakeQuantization:
        """Keep the folded batch norms in eval mode."""
        super().train(mode)
        for _, norm in self._folds:
            norm.eval()
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        found = {k for k in state_dict if k.startswith(prefix)}
        wanted = {prefix + k for k in self.state_dict()}
        if found and found != wanted:
            differing = sorted(found ^ wanted)
            raise ValueError(
                'Expected a checkpoint of this quantization, but it quantizes '
                f'{len(differing)} other values, such as {differing[:3]}. '
                'Name the config (`architecture` and `quantize`) that it was '
                'trained with.'
            )
        given = state_dict.get(prefix + 'options')
        if given is not None and given.tolist() != self.options.tolist():
            raise ValueError(
                'Expected a checkpoint of this quantization, with '
                f'{_described(self.options)}, but it is of one with '
                f'{_described(given)}. Name the config (`quantize`) that it '
                'was trained with.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._set_mode(self._mode)


def _described(options: Tensor) -> str:
    weight_bits, signed, power_of_two_scales = options.tolist()
    return (
        f'weight_bits={weight_bits}, activations={ACTIVATIONS[signed]!r}, '
        f'power_of_two_scales={bool(power_of_two_scales)}'
    )


@torch.no_grad()
def fold_norm(layer: Layer, norm: _BatchNorm) -> None:
    """Move the scale of a batch norm into the convolution before it.

    The norm keeps all of the bias; together they compute what they did in
    eval mode.

    Args:
        layer (nn.Module): A convolution, changed in place.
        norm (_BatchNorm): The norm, changed in place.
    """
    mean, variance = (
        cast(Tensor, value) for value in (norm.running_mean, norm.running_var)
    )
    gain = norm.weight / (variance + norm.eps).sqrt()
    shape = [1] * layer.weight.dim()
    shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0] = -1
    layer.weight.mul_(gain.view(shape))
    norm.bias.sub_(mean * gain)
    if layer.bias is not None:
        norm.bias.add_(layer.bias * gain)
        layer.bias.zero_()
    mean.zero_()
    variance.fill_(1 - norm.eps)
    norm.weight.fill_(1)


def build_quantization(
    config: Config, checkpoint: str, model: BaseModel
) -> FakeQuantization | None:
    """Give a student the fake quantization that it was trained with.

    Args:
        config (Config): The config of the training.
        checkpoint (str): Its checkpoint.
        model (BaseModel): The student, with its weights.

    Returns:
        FakeQuantization | None: None if the checkpoint is of a float student.

    Raises:
        ValueError: If the checkpoint is of another quantization than the
            config.
    """
    loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    prefix = 'quantization.'
    scales = {
        key.removeprefix(prefix): value
        for key, value in loaded.get('state_dict', loaded).items()
        if key.startswith(prefix)
    }
    if not scales:
        return None
    if 'quantize' not in config.model and not type_name(config.model).endswith(
        'QuantizationAwareTraining'
    ):
        raise ValueError(
            f'Expected the config that {checkpoint} was trained with, since '
            'it is of a quantization-aware training, but this one has no '
            '`quantize`. Name that config, or the *_student.pth beside the '
            'checkpoint for its float weights.'
        )
    quantization = FakeQuantization(
        model, **(config.model.get('quantize') or {})
    )
    quantization.load_state_dict(scales)
    return quantization.eval()
