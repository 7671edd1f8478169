"""Fake quantization of a model, as a chip with 8-bit integers computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias, cast

import torch
from mmengine.config import Config
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..deploy.export import check_model
from ..deploy.optional import require

ACTIVATIONS = ('uint8', 'int8')
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
Layer: TypeAlias = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
WEIGHT_BITS = range(2, 9)


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, signed: bool
) -> Tensor:
    """Round to what integers can hold, with a straight-through gradient.

    (clamp(round(x / scale + zero_point)) - zero_point) * scale

    Args:
        x (Tensor): Any shape.
        scale (Tensor): The size of a step, of a shape to be broadcast.
        zero_point (Tensor): The integer that stands for 0.
        bits (int): How many bits the integers have.
        signed (bool): Whether they are of both signs; else from 0 on.

    Returns:
        Tensor: As ``x``.
    """
    (core,) = require('brevitas.core.quant')
    quantizer = core.IntQuant(
        narrow_range=False, signed=signed, input_view_impl=nn.Identity()
    )
    # An autocast type has too few digits for 8 bits.
    return quantizer(scale, zero_point, scale.new_tensor(bits), x.float())


class ActivationQuantizer(nn.Module):
    """Fake quantization of a tensor, with a scale that is learned.

    The scale begins with the range that is observed, and is learned as its
    logarithm, so that a step of the optimizer changes it by a share of its
    size.

    Args:
        name (str): What it quantizes, for messages.
        signed (bool): Whether the integers are -128 to 127, without a zero
            point, instead of 0 to 255.

    References:
        Jain et al.: Trained Quantization Thresholds for Accurate and
        Efficient Fixed-Point Inference of Deep Neural Networks. MLSys 2020.

        Esser et al.: Learned Step Size Quantization. ICLR 2020 (section 2.2,
        the size of the gradient).
    """

    zero_point: Tensor

    def __init__(self, name: str, signed: bool) -> None:
        super().__init__()
        self.name = name
        self.low, self.high = torch.inf, -torch.inf
        self.signed = signed
        self.log2_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer('zero_point', torch.zeros(()))
        self.run: Callable[[Tensor], Tensor] = self.keep

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
        learned = self.log2_scale * share
        # Exactly the value of the parameter, but a share of its gradient.
        log2_scale = self.log2_scale.detach() + (learned - learned.detach())
        return fake_quantize(
            x, log2_scale.exp2(), self.zero_point, 8, self.signed
        )

    def trace(self) -> Callable[[Tensor], Tensor]:
        """The same in an operator that PyTorch can export."""
        limits = (-128, 127) if self.signed else (0, 255)
        scale = self.log2_scale.detach().exp2().item()
        zero_point = int(self.zero_point.item())
        return lambda x: torch.fake_quantize_per_tensor_affine(
            x, scale, zero_point, *limits
        )

    @torch.no_grad()
    def set_range(self) -> None:
        """Begin with the range that was observed; 0 is always in it."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = max(-low, high) / 127 if self.signed else (high - low) / 255
        scale = max(scale, 1e-10)
        self.log2_scale.copy_(torch.tensor(scale).log2())
        if not self.signed:
            self.zero_point.fill_(round(-low / scale))


class WeightQuantizer:
    """Fake quantization of a layer's weight, symmetric, for each channel.

    While the layer runs, ``layer.weight`` is the quantized one: its class and
    the names of its parameters stay what they are.

    Args:
        layer (nn.Module): The layer, to which hooks are added.
        bits (int): How many bits the integers have.
    """

    def __init__(self, layer: Layer, bits: int) -> None:
        self.layer = layer
        self.bits = bits
        self.axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        self.run: Callable[[Tensor], Tensor] = self.keep
        layer.register_forward_pre_hook(self.before)
        layer.register_forward_hook(self.after, always_call=True)

    def before(self, layer: nn.Module, args: tuple) -> None:
        """Forward pre-hook."""
        weight = cast(Tensor, layer._parameters['weight'])
        # An attribute of the object comes before its parameters.
        layer.__dict__['weight'] = self.run(weight)

    def after(self, layer: nn.Module, args: tuple, out: Tensor) -> None:
        """Forward hook, to be called whatever happens."""
        layer.__dict__.pop('weight', None)

    def keep(self, weight: Tensor) -> Tensor:
        """Leave it as it is."""
        return weight

    # While activations are observed, weights are in float.
    observe = keep

    def quantize(self, weight: Tensor) -> Tensor:
        """Fake quantization."""
        zero = weight.new_zeros(())
        return fake_quantize(weight, self.scale(weight), zero, self.bits, True)

    def trace(self) -> Callable[[Tensor], Tensor]:
        """The same in an operator that PyTorch can export."""
        scale = self.scale(self.layer.weight).flatten()
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return lambda weight: torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, self.axis, -128, 127
        )

    def scale(self, weight: Tensor) -> Tensor:
        """That of each output channel, to be broadcast to the weight."""
        axes = [i for i in range(weight.dim()) if i != self.axis]
        largest = weight.detach().abs().amax(axes, keepdim=True)
        return (largest / (2 ** (self.bits - 1) - 1)).clamp(min=1e-10)


class FakeQuantization(nn.Module):
    """Fake quantization in the forward of a model, by hooks.

    The weights of the convolutions and linear layers that the model runs in
    inference are rounded to ``weight_bits`` with a scale for each output
    channel; what these layers read and what they give, after the norm and the
    activation function that follow, is rounded to 8 bits with one scale for a
    tensor. Batch norms that follow a convolution are folded into it when the
    quantization is calibrated: they stay in the model with a scale of 1, for
    their bias, and in eval mode. Thus the model keeps its classes, the names
    of its modules and those of its weights, whoever records one of its modules
    sees quantized values, and its weights alone are a plain checkpoint of the
    float model.

    Args:
        model (BaseModel): A segmentor (``EncoderDecoder``) or a detector of
            one stage. It is changed: hooks are registered.
        weight_bits (int): 2 to 8. Defaults to 8.
        activations (str): 'uint8' with a zero point, or 'int8' without, which
            TensorRT wants. Defaults to 'uint8'.
        exclude (Sequence[str]): Layers to keep in float: 'decode_head' is all
            of it. Defaults to none.

    Attributes:
        left (list[str]): Layers with weights that stay in float, with their
            types.

    Raises:
        ImportError: If Brevitas is not installed.
        TypeError: If the model is of another kind.
        ValueError: If an option is unknown, or there is nothing to quantize.

    References:
        Jacob et al.: Quantization and Training of Neural Networks for
        Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
    """

    calibrated: Tensor

    def __init__(
        self,
        model: BaseModel,
        weight_bits: int = 8,
        activations: str = 'uint8',
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__()
        require('brevitas.core.quant')
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
        check_model(model)
        plan = _Plan(model, [exclude] if isinstance(exclude, str) else exclude)
        self._mode = 'quantize'
        # In a list: it is no part of this module.
        self._model = [model]
        self._folds = plan.folds
        self.left = plan.left
        self.activations = nn.ModuleDict()
        self.register_buffer('calibrated', torch.tensor(False))
        self.weights = [
            WeightQuantizer(layer, weight_bits) for layer in plan.layers
        ]
        modules = dict(model.named_modules())
        for name, side in plan.sites:
            quantizer = ActivationQuantizer(
                f'{side} of {name}', activations == 'int8'
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
            # A key must not have dots.
            self.activations[f'{name.replace(".", "/")}:{side}'] = quantizer
        for _, norm in self._folds:
            norm.weight.requires_grad_(False)
            norm.eval()
        model.register_forward_pre_hook(self._check_calibrated)
        print_log(
            f'Fake quantization of {len(plan.layers)} layers '
            f'({weight_bits}-bit weights) and {len(plan.sites)} activations '
            f'({activations}); {len(plan.folds)} batch norms are folded. '
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
        quantizers: list[WeightQuantizer | ActivationQuantizer] = [
            *self.weights,
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
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._set_mode(self._mode)


@torch.no_grad()
def fold_norm(layer: Layer, norm: _BatchNorm) -> None:
    """Move the scale of a batch norm into the convolution before it.

    The norm keeps the bias; together they compute what they did in eval mode.

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
        layer.bias.mul_(gain)
    mean.zero_()
    variance.fill_(1 - norm.eps)
    norm.weight.fill_(1)


class _Call(NamedTuple):
    """A module that ran, what it took and what it gave: a tensor and its
    version, or None."""

    name: str
    module: nn.Module
    taken: tuple[int, int] | None
    given: tuple[int, int] | None

    @property
    def is_leaf(self) -> bool:
        return not any(True for _ in self.module.children())


class _Plan:
    """What is quantized of a model, by how it runs in inference.

    Attributes:
        layers (list[Layer]): Those whose weights are.
        sites (list[tuple[str, str]]): The modules whose 'input' or 'output'
            is.
        folds (list[tuple[Layer, _BatchNorm]]): Convolutions, each with
            the batch norm after it.
        left (list[str]): Layers with weights that stay in float, with their
            types.
    """

    def __init__(self, model: BaseModel, exclude: Sequence[str]) -> None:
        self.calls = _record(model)
        self.counts: dict[str, int] = {}
        for call in self.calls:
            self.counts[call.name] = self.counts.get(call.name, 0) + 1
        excluded = _inside(model, exclude)
        by_layer: dict[str, list[int]] = {}
        for i, call in enumerate(self.calls):
            if isinstance(call.module, LAYERS) and call.name not in excluded:
                by_layer.setdefault(call.name, []).append(i)
        self.layers = [
            cast(Layer, self.calls[i[0]].module) for i in by_layer.values()
        ]
        if not self.layers:
            raise ValueError(
                'Expected convolutions or linear layers to quantize, but '
                f'{type(model).__name__} runs none that `exclude` leaves.'
            )
        norms = self._norms()
        self.folds = [
            (cast(Layer, layer.module), cast(_BatchNorm, norm.module))
            for layer, norm in norms.values()
        ]
        found: dict[tuple[str, str], None] = {}
        for name, positions in by_layer.items():
            sites = [self._source(i) for i in positions]
            known = [site for site in sites if site is not None]
            if len(known) < len(sites):
                known = [(name, 'input')]
            found.update(dict.fromkeys(known))
        read = {
            call.taken
            for call in self.calls
            if call.is_leaf and call.taken != call.given
        }
        for name, positions in by_layer.items():
            last = self.calls[positions[0]]
            if name in norms:
                last = norms[name][1]
            # Else the activation function that follows gives what is read.
            if last.given not in read:
                found.setdefault((last.name, 'output'))
        self.sites = list(found)
        done = {id(m) for m in self.layers} | {id(n) for _, n in self.folds}
        self.left = [
            f'{name} ({type(module).__name__})'
            for name, module in {c.name: c.module for c in self.calls}.items()
            if id(module) not in done
            and any(True for _ in module.parameters(recurse=False))
        ]

    def _norms(self) -> dict[str, tuple[_Call, _Call]]:
        """The convolutions that a batch norm follows, with it, by name."""
        givers = {
            c.given: c
            for c in self.calls
            if isinstance(c.module, (nn.Conv2d, nn.ConvTranspose2d))
        }
        found = {}
        for call in self.calls:
            norm, layer = call.module, givers.get(call.taken)
            if (
                isinstance(norm, _BatchNorm)
                and norm.affine
                and norm.track_running_stats
                and layer is not None
                and self.counts[call.name] == self.counts[layer.name] == 1
                and not (
                    isinstance(layer.module, nn.ConvTranspose2d)
                    and layer.module.groups > 1
                )
            ):
                found[layer.name] = layer, call
        return found

    def _source(self, position: int) -> tuple[str, str] | None:
        """Where the tensor that a layer takes comes from: the module that
        gives it to all of its readers, if there is one."""
        tensor = self.calls[position].taken
        before = self.calls[:position]
        for call in before:  # of nested modules the innermost comes first
            if (
                call.given == tensor
                and call.taken != tensor
                and self.counts[call.name] == 1
            ):
                return call.name, 'output'
        leaves = [call for call in before if call.is_leaf]
        # Dropout scales in training what was quantized in its range.
        if (
            leaves
            and isinstance(leaves[-1].module, _DropoutNd)
            and leaves[-1].taken == tensor
            and self.counts[leaves[-1].name] == 1
        ):
            return leaves[-1].name, 'input'
        return None


def _inside(model: nn.Module, names: Sequence[str]) -> set[str]:
    """The modules of these names, and all inside of them."""
    known = [name for name, _ in model.named_modules()]
    found: set[str] = set()
    for name in names:
        inside = {k for k in known if k == name or k.startswith(f'{name}.')}
        if not inside:
            raise ValueError(
                'Expected `exclude` to name modules of '
                f'{type(model).__name__}, but got {name!r}. It has '
                f'{[n for n, _ in model.named_children()]}, and what is '
                'inside of them.'
            )
        found |= inside
    return found


@torch.no_grad()
def _record(model: BaseModel) -> list[_Call]:
    """The modules that run in inference, in the order in which they end."""
    calls: list[_Call] = []
    taken: list[tuple[int, int] | None] = []
    alive: list[Tensor] = []  # so that no two have the same id

    def key(value) -> tuple[int, int] | None:
        if not isinstance(value, Tensor):
            return None
        alive.append(value)
        return id(value), value._version

    def before(module: nn.Module, args: tuple) -> None:
        taken.append(key(args[0] if args else None))

    def after(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, out) -> None:
            calls.append(_Call(name, module, taken.pop(), key(out)))

        return hook

    handles = [
        handle
        for name, module in model.named_modules()
        if name
        for handle in (
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after(name)),
        )
    ]
    training = {module: module.training for module in model.modules()}
    try:
        image = next(model.parameters()).new_zeros(1, 3, 64, 64)
        model.eval()(image, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return calls


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
    if 'quantize' not in config.model and not str(
        config.model.get('type')
    ).endswith('QuantizationAwareTraining'):
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
