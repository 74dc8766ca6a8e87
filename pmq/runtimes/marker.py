"""Stand-ins for layers: what a graph is taken with, so that each layer can be filled in afterwards."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from pmq.graph import Layer
from pmq.runtimes.layer import Convolution


class Marker(nn.Module):
    """Stands for a layer while a graph is taken; an exporter's subclass says what it leaves there."""

    def __init__(self, name: str, layer: Layer) -> None:
        super().__init__()
        self.name, self.outputs = name, layer.outputs
        self.convolution, self.kernel = Convolution.of(layer), tuple(layer.weight.shape[2:])

    def shape(self, x: Tensor) -> tuple[Any, ...]:
        """Of the layer's output."""
        how = self.convolution
        if how is None:
            return (*x.shape[:-1], self.outputs)
        sides = []
        for i, size in enumerate(x.shape[2:]):
            reach, padding = how.dilation[i] * (self.kernel[i] - 1) + 1, sum(how.padding[i])
            if how.transposed:
                sides.append((size - 1) * how.stride[i] + reach - padding + how.output_padding[i])
            else:
                sides.append((size + padding - reach) // how.stride[i] + 1)
        return (x.shape[0], self.outputs, *sides)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Give something of the shape of the layer's output."""


def marked(model: nn.Module, layers: Iterable[str], marker: Callable[[str, Any], nn.Module]) -> nn.Module:
    """Copy a model with what ``marker`` makes of their names and modules in place of ``layers``."""
    copied = copy.deepcopy(model)
    for name in layers:
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, marker(name, copied.get_submodule(name)))
    return copied
