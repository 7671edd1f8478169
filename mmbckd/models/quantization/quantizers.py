"""Rounding of tensors to what integers hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .plan import Layer

# A bias has at most so many steps, which float32 adds exactly.
MAX_BIAS = 2**23
MIN_SCALE = 1e-10


class RoundSTE(torch.autograd.Function):
    """Round half to even, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Round, any shape."""
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The straight-through estimator."""
        return grad


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    limits: tuple[int, int],
    zero_point: Tensor | int = 0,
) -> Tensor:
    """Round to what integers can hold, with a straight-through gradient.

    (clamp(round(x / scale) + zero_point, *limits) - zero_point) * scale

    The zero point is added after rounding, as ONNX's QuantizeLinear defines
    it: before it, an odd one would take halves the other way.

    Args:
        x (Tensor): Any shape.
        scale (Tensor): The size of a step, of a shape to be broadcast.
        limits (tuple[int, int]): The lowest and the highest integer.
        zero_point (Tensor | int): The integer that stands for 0. Defaults to
            0.

    Returns:
        Tensor: As ``x``, in float32.
    """
    # An autocast type has too few digits for 8 bits.
    integers = RoundSTE.apply(x.float() / scale) + zero_point
    return (integers.clamp(*limits) - zero_point) * scale


def power_of_two(log2: Tensor) -> Tensor:
    """The power of two that is next on the scale of logarithms."""
    return RoundSTE.apply(log2).exp2()


class ActivationQuantizer(nn.Module):
    """Fake quantization of a tensor, with a scale that is learned.

    The scale begins with the range that is observed, and is learned as its
    logarithm, so that a step of the optimizer changes it by a share of its
    size.

    Args:
        name (str): What it quantizes, for messages.
        signed (bool): Whether the integers are -128 to 127, without a zero
            point, instead of 0 to 255.
        power_of_two (bool): Whether the scale is rounded to a power of two;
            the zero point is even then, so that halves are rounded the same
            before and after it is added.

    References:
        Jain et al.: Trained Quantization Thresholds for Accurate and
        Efficient Fixed-Point Inference of Deep Neural Networks. MLSys 2020.

        Esser et al.: Learned Step Size Quantization. ICLR 2020 (section 2.2,
        the size of the gradient).
    """

    zero_point: Tensor

    def __init__(self, name: str, signed: bool, power_of_two: bool) -> None:
        super().__init__()
        self.name = name
        self.low, self.high = torch.inf, -torch.inf
        self.limits = (-128, 127) if signed else (0, 255)
        self.power_of_two = power_of_two
        self.log2_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer('zero_point', torch.zeros(()))
        self.run: Callable[[Tensor], Tensor] = self.keep

    @property
    def scale(self) -> Tensor:
        """The size of a step, a scalar."""
        if self.power_of_two:
            return power_of_two(self.log2_scale)
        return self.log2_scale.exp2()

    def on_input(self, module: nn.Module, args: tuple) -> tuple:
        """Forward pre-hook that quantizes a module's first argument."""
        return (self.run(args[0]), *args[1:])

    def on_output(self, module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        """Forward hook that quantizes a module's output."""
        return self.run(out)

    def keep(self, x: Tensor) -> Tensor:
        """Leave it as it is."""
        return x

    def observe(self, x: Tensor) -> Tensor:
        """Note its range.

        Raises:
            ValueError: If it has NaN or infinity.
        """
        low, high = (v.item() for v in x.detach().aminmax())
        if not abs(high - low) < torch.inf:
            raise ValueError(
                'Expected finite values to calibrate with, but the '
                f'{self.name} has NaN or infinity. Look at the data (`mim run '
                'mmbckd check_data`) and at the checkpoint that the student '
                'begins with.'
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        return x

    def quantize(self, x: Tensor) -> Tensor:
        """Fake quantization."""
        share = (x.numel() * 127) ** -0.5
        learned = self.scale * share
        # Exactly the scale, but a share of its gradient.
        scale = self.scale.detach() + (learned - learned.detach())
        return fake_quantize(x, scale, self.limits, self.zero_point)

    def trace(self) -> Callable[[Tensor], Tensor]:
        """The same in an operator that PyTorch can export."""
        scale, zero_point = self.scale.item(), int(self.zero_point.item())
        return lambda x: torch.fake_quantize_per_tensor_affine(
            x, scale, zero_point, *self.limits
        )

    @torch.no_grad()
    def set_range(self) -> None:
        """Begin with the range that was observed; 0 is always in it."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        signed = self.limits[0] < 0
        scale = max(-low, high) / 127 if signed else (high - low) / 255
        scale = max(scale, MIN_SCALE)
        self.log2_scale.copy_(torch.tensor(scale).log2())
        if not signed:
            step = 2 if self.power_of_two else 1
            zero_point = step * round(-low / scale / step)
            self.zero_point.fill_(min(zero_point, 256 - step))


class LayerQuantizer:
    """Fake quantization of a layer's weight and bias, for each channel.

    Weights are symmetric, with a scale for each output channel. The bias, in
    steps of that scale times the scale of the layer's input, is what a chip
    adds to its sums of products, in 32 bits. While a module runs, its
    ``weight`` and ``bias`` are the quantized ones: its class and the names of
    its parameters stay what they are.

    Args:
        layer (nn.Module): The layer, to which hooks are added.
        bits (int): How many bits the integers of a weight have.
        norm (_BatchNorm, optional): The batch norm after it, folded but for
            its bias, which it gets hooks for. Defaults to None.
        source (ActivationQuantizer, optional): That of the layer's input.
            Defaults to None: there are several, and the bias stays in float.
        power_of_two (bool): Whether scales are rounded to powers of two.
            Defaults to False.
    """

    def __init__(
        self,
        layer: Layer,
        bits: int,
        norm: _BatchNorm | None = None,
        source: ActivationQuantizer | None = None,
        power_of_two: bool = False,
    ) -> None:
        self.layer = layer
        self.modules = [layer] if norm is None else [layer, norm]
        self.source = source
        limit = 2 ** (bits - 1) - 1
        self.limits = (-limit, limit)
        self.power_of_two = power_of_two
        self.axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        self.run: Callable[[nn.Module], dict[str, Tensor]] = self.keep
        for module in self.modules:
            module.register_forward_pre_hook(self.before)
            module.register_forward_hook(self.after, always_call=True)

    def before(self, module: nn.Module, args: tuple) -> None:
        """Forward pre-hook."""
        # An attribute of the object comes before its parameters.
        module.__dict__.update(self.run(module))

    def after(self, module: nn.Module, args: tuple, out: Tensor) -> None:
        """Forward hook, to be called whatever happens."""
        for name in ('weight', 'bias'):
            module.__dict__.pop(name, None)

    def keep(self, module: nn.Module) -> dict[str, Tensor]:
        """Leave all as it is."""
        return {}

    # While activations are observed, weights are in float.
    observe = keep

    def quantize(self, module: nn.Module) -> dict[str, Tensor]:
        """Fake quantization of what a module has."""
        found = {}
        if module is self.layer:
            # The norm, which runs next, has the same.
            self.scale = self.next_scale()
            found['weight'] = self.round_weight(self.scale)
        if self.source is not None and module.bias is not None:
            step = self.scale * self.source.scale.detach()
            found['bias'] = fake_quantize(
                cast(Tensor, module.bias), step, (-MAX_BIAS, MAX_BIAS)
            )
        return found

    def trace(self) -> Callable[[nn.Module], dict[str, Tensor]]:
        """The same of fixed tensors, the weight's in an operator that PyTorch
        can export."""
        with torch.no_grad():
            fixed = [self.quantize(module) for module in self.modules]
        scale = self.scale
        zeros = torch.zeros_like(scale, dtype=torch.int32)

        def run(module: nn.Module) -> dict[str, Tensor]:
            # The exporter may run a copy of the module.
            found = dict(fixed[isinstance(module, _BatchNorm)])
            if 'weight' in found:
                found['weight'] = torch.fake_quantize_per_channel_affine(
                    found['weight'], scale, zeros, self.axis, -128, 127
                )
            return found

        return run

    def round_weight(self, scale: Tensor) -> Tensor:
        """The weight by the scale of each channel, (C,)."""
        shape = [1] * self.layer.weight.dim()
        shape[self.axis] = -1
        return fake_quantize(self.layer.weight, scale.view(shape), self.limits)

    @torch.no_grad()
    def next_scale(self) -> Tensor:
        """That of each output channel, (C,), by what the weight is now.

        Of the two powers of two around it, the one with the smaller squared
        error. A channel whose weights are all but 0 has one that is large
        enough for its bias.
        """
        weight = self.layer.weight
        axes = [i for i in range(weight.dim()) if i != self.axis]
        scale = weight.abs().amax(axes) / self.limits[1]
        scale = scale.clamp(min=MIN_SCALE)
        if self.power_of_two:
            higher = scale.log2().ceil().exp2()
            errors = [
                (self.round_weight(s) - weight).square().sum(axes)
                for s in (higher / 2, higher)
            ]
            scale = torch.where(errors[0] < errors[1], higher / 2, higher)
        if self.source is not None:
            for module in self.modules:
                if module.bias is not None:
                    least = module.bias.abs() / self.source.scale / MAX_BIAS
                    least = least.clamp(min=MIN_SCALE)
                    if self.power_of_two:
                        least = least.log2().ceil().exp2()
                    scale = scale.maximum(least)
        return scale
