"""What of a model is quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
Layer: TypeAlias = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
# A module, and which of its sides: 'input' or 'output'.
Site: TypeAlias = tuple[str, str]


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


class PlannedLayer(NamedTuple):
    """A layer whose weight is quantized.

    Attributes:
        module (Layer): The layer.
        norm (_BatchNorm, optional): The batch norm after it, if there is one.
        source (Site, optional): Where all that it takes is quantized. None if
            it runs several times, on what is quantized at several places.
    """

    module: Layer
    norm: _BatchNorm | None
    source: Site | None


class Plan:
    """What is quantized of a model, by how it runs in inference.

    Attributes:
        layers (list[PlannedLayer]): Those whose weights are.
        sites (list[Site]): The activations that are.
        folds (list[tuple[Layer, _BatchNorm]]): Convolutions, each with
            the batch norm after it.
        left (list[str]): Layers with weights that stay in float, with their
            types.
    """

    def __init__(self, model: BaseModel, exclude: Sequence[str]) -> None:
        self.calls = _record(model)
        self.counts = Counter(call.name for call in self.calls)
        excluded = _inside(model, exclude)
        by_layer: dict[str, list[int]] = {}
        for i, call in enumerate(self.calls):
            if (
                isinstance(call.module, LAYERS)
                and call.name not in excluded
                and not _shares_scales(call.module)
            ):
                by_layer.setdefault(call.name, []).append(i)
        if not by_layer:
            raise ValueError(
                'Expected convolutions or linear layers to quantize, but '
                f'{type(model).__name__} runs none that `exclude` leaves.'
            )
        norms = self._norms()
        norm_of = {
            name: cast(_BatchNorm, norm.module)
            for name, (_, norm) in norms.items()
        }
        self.folds = [
            (cast(Layer, layer.module), norm_of[name])
            for name, (layer, _) in norms.items()
        ]
        self.layers: list[PlannedLayer] = []
        found: dict[Site, None] = {}
        for name, positions in by_layer.items():
            sites = {self._source(i) or (name, 'input') for i in positions}
            if (name, 'input') in sites:
                sites = {(name, 'input')}
            found.update(dict.fromkeys(sorted(sites)))
            self.layers.append(
                PlannedLayer(
                    cast(Layer, self.calls[positions[0]].module),
                    norm_of.get(name),
                    sites.pop() if len(sites) == 1 else None,
                )
            )
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
        done = {id(layer.module) for layer in self.layers}
        done |= {id(norm) for _, norm in self.folds}
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
                and not _shares_scales(layer.module)
            ):
                found[layer.name] = layer, call
        return found

    def _source(self, position: int) -> Site | None:
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


def _shares_scales(layer: nn.Module) -> bool:
    """Whether channels of several groups would have one scale, as those of a
    transposed convolution in ONNX: their biases would have several."""
    return isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1


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
