"""Reach every component of a model: replace weights and intercept activations, without touching any ``forward``.

Modules are exchanged for ones of ours that compute the same: a Linear or Conv2d for :class:`LayerTap`, an attention's
``attn_drop`` for :class:`Tap`, and its ``q_norm`` and ``k_norm``, where they normalise, for the norm followed by a tap.
Removing the instrument puts the original modules back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.component import Component, Inventory

#: receives an activation, gives what the model goes on with
TapFunction = Callable[[Tensor], Tensor]


class Tap(nn.Module):
    """Runs a module (in evaluation mode), then the tap's function."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.function: TapFunction | None = None

    @property
    def p(self) -> float:
        """Dropout probability, which timm reads off ``attn_drop``."""
        return float(getattr(self.inner, "p", 0.0))

    def forward(self, input: Tensor) -> Tensor:
        """Pass ``input`` on through the function."""
        x: Tensor = self.inner(input)
        return x if self.function is None else self.function(x.float())


class LayerTap(nn.Module):
    """Computes a Linear or Conv2d with another weight, on an input that a function may change.

    ``learned`` gives a weight for each pass. ``product``, of input and bias, computes the same in another way where no
    gradient is wanted. ``parts`` are functions on the thirds of the output: q, k and v of a fused ``qkv``.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.input: TapFunction | None = None
        self.learned: Callable[[], Tensor] | None = None
        self.product: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self.parts: dict[int, TapFunction] = {}
        self.convolution: Any = None
        if isinstance(layer, nn.Conv2d):
            self.convolution = (layer.stride, layer.padding, layer.dilation, layer.groups)
        for name, size in vars(layer).items():  # others may ask for: in_features, kernel_size ...
            if name not in vars(self):
                setattr(self, name, size)

    def __call__(self, input: Tensor) -> Tensor:
        """Compute the layer; hooks get what it is given by place, whatever the caller does."""
        y: Tensor = super().__call__(input)
        return y

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer."""
        y = self._multiply(input)
        if self.parts:
            y = y.float()  # grids need more than the half precision that products may be computed in
            thirds = list(y.chunk(3, -1))
            if not torch.is_grad_enabled():
                for index, function in self.parts.items():
                    thirds[index].copy_(function(thirds[index]))
                return y
            y = torch.cat([self.parts[i](t) if i in self.parts else t for i, t in enumerate(thirds)], -1)
        return y

    def _multiply(self, x: Tensor) -> Tensor:
        if self.product is not None and not torch.is_grad_enabled():
            return self.product(x.float(), self.bias)
        if self.input is not None:
            x = self.input(x.float())
        weight = self.weight if self.learned is None else self.learned()
        if self.convolution is not None:
            return nn.functional.conv2d(x, weight, self.bias, *self.convolution)
        return nn.functional.linear(x, weight, self.bias)


_PART = {"q": 0, "k": 1, "v": 2}


class Instrument:
    """All taps of a model, by component name. A context manager: leaving it restores the model.

    Args:
        model: in evaluation mode; it is changed in place.
        inventory: its components.
    """

    def __init__(self, model: nn.Module, inventory: Inventory) -> None:
        self.model, self.inventory = model, inventory
        self._originals: list[tuple[nn.Module, str, nn.Module]] = []
        self._layers: dict[str, LayerTap] = {}
        self._taps: dict[str, Tap] = {}
        self._attentions: dict[str, Any] = {}
        self._fused: dict[str, bool] = {}
        self.weights: dict[str, Tensor] = {}
        for component in inventory:
            self._install(component)

    def _install(self, component: Component) -> None:
        if component.slot in ("weight", "input"):
            if component.module not in self._layers:
                layer = self.model.get_submodule(component.module)
                assert isinstance(layer, nn.Linear | nn.Conv2d)
                self._layers[component.module] = tap = LayerTap(layer)
                self._exchange(component.module, tap)
            if component.slot == "weight":
                self.weights[component.name] = self._layers[component.module].weight
            return
        attention: Any = self.model.get_submodule(component.module)
        self._attentions[component.module] = attention
        self._fused.setdefault(component.module, attention.fused_attn)
        site = {"softmax": "attn_drop", "q": "q_norm", "k": "k_norm"}.get(component.slot)
        inner = getattr(attention, site, None) if site else None
        if inner is not None and (component.slot == "softmax" or not isinstance(inner, nn.Identity)):
            self._taps[component.name] = tap_after = Tap(inner)
            self._exchange(f"{component.module}.{site}", tap_after)

    def _exchange(self, name: str, new: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        owner = self.model.get_submodule(parent)
        self._originals.append((owner, child, getattr(owner, child)))
        new.train(self.model.training)
        setattr(owner, child, new)

    def set_weight(self, name: str, weight: Tensor | None) -> None:
        """Compute with ``weight`` in place of component ``name``; ``None`` restores it."""
        layer = self._layers[self.inventory[name].module]
        original = self.weights[name]
        layer.weight = original if weight is None else nn.Parameter(weight, requires_grad=False)
        layer.product = None

    def set_activation(self, name: str, function: TapFunction | None) -> None:
        """Pass activation ``name`` through ``function``; ``None`` lets it through untouched."""
        component = self.inventory[name]
        if component.slot == "input":
            self._layers[component.module].input = function
            self._layers[component.module].product = None
        elif name in self._taps:
            self._taps[name].function = function
            if component.slot == "softmax":  # a fused attention has no softmax output to quantize
                fused = function is None and self._fused[component.module]
                self._attentions[component.module].fused_attn = fused
        else:
            parts = self._layers[f"{component.module}.qkv"].parts
            parts.pop(_PART[component.slot], None)
            if function is not None:
                parts[_PART[component.slot]] = function

    def by_head(self, name: str, x: Tensor) -> Tensor:
        """Lay activation ``name`` out as ``(heads, K)``, the samples of each attention head in a row."""
        heads = self.inventory[name].heads
        if heads == 1:
            return x.reshape(1, -1)
        if name not in self._taps:  # q, k, v as thirds of their Linear's output: heads are groups of channels
            x = x.unflatten(-1, (heads, -1)).movedim(-2, -3)
        return x.movedim(-3, 0).reshape(heads, -1)

    def spread(self, name: str, parameter: Tensor) -> Tensor:
        """Shape a quantizer's parameter ``(R, 1)`` so that it broadcasts against activation ``name``."""
        if parameter.numel() == 1:
            return parameter.reshape(())
        if name in self._taps:
            return parameter.reshape(-1, 1, 1)
        component = self.inventory[name]
        return parameter.reshape(-1).repeat_interleave(component.shape[-1] // component.heads)

    def layer(self, name: str) -> LayerTap:
        """The module that computes with component ``name``, a weight or a layer's input."""
        return self._layers[self.inventory[name].module]

    def remove(self) -> None:
        """Put the original modules back."""
        for owner, child, original in reversed(self._originals):
            setattr(owner, child, original)
        for name, fused in self._fused.items():
            self._attentions[name].fused_attn = fused
        self._originals.clear()

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
