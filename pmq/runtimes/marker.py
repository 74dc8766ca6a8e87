"""Placeholders of layers, with which a graph is exported so that layers can be inserted afterwards."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from pmq.graph import Layer
from pmq.runtimes.layer import Convolution


class Marker(nn.Module):
    """Placeholder of a layer during export; the subclass of each exporter determines which operation represents it."""

    def __init__(self, name: str, layer: Layer) -> None:
        super().__init__()
        self.name, self.outputs = name, layer.outputs
        self.convolution, self.kernel = Convolution.of(layer), tuple(layer.weight.shape[2:])

    def shape(self, x: Tensor) -> tuple[Any, ...]:
        """Return the shape of the layer's output for the input ``x``."""
        geometry = self.convolution
        if geometry is None:
            return (*x.shape[:-1], self.outputs)
        sides = []
        for i, size in enumerate(x.shape[2:]):
            reach, padding = geometry.dilation[i] * (self.kernel[i] - 1) + 1, sum(geometry.padding[i])
            if geometry.transposed:
                sides.append((size - 1) * geometry.stride[i] + reach - padding + geometry.output_padding[i])
            else:
                sides.append((size + padding - reach) // geometry.stride[i] + 1)
        return (x.shape[0], self.outputs, *sides)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of the layer's output."""


def marked(model: nn.Module, layers: Iterable[str], marker: Callable[[str, Any], nn.Module]) -> nn.Module:
    """Copy a model, replacing each of ``layers`` by ``marker(name, module)``."""
    copied = copy.deepcopy(model)
    for name in layers:
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, marker(name, copied.get_submodule(name)))
    return copied
