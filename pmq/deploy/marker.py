"""Stand-ins for layers: what a graph is taken with, so that each layer can be filled in afterwards."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn


class Marker(nn.Module):
    """Stands for a layer while a graph is taken; an exporter's subclass says what it leaves there."""

    def __init__(self, name: str, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.name, self.outputs = name, int(layer.weight.shape[0])
        self.patch = layer.kernel_size if isinstance(layer, nn.Conv2d) else None

    def shape(self, x: Tensor) -> tuple[Any, ...]:
        """Of the layer's output."""
        if self.patch is None:
            return (*x.shape[:-1], self.outputs)
        return (x.shape[0], self.outputs, x.shape[2] // int(self.patch[0]), x.shape[3] // int(self.patch[1]))

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
