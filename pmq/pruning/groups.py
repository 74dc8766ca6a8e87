"""Groups of layers that lose a channel together, found by the dependency graph of torch-pruning (DepGraph, 2301.12900)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pmq.core.errors import PmqError
from pmq.graph.macs import unfused
from pmq.pruning.units import Unit, example


class Groups:
    """Dependency graph of a model, traced once, that returns the group of any unit.

    Raises:
        PmqError: torch-pruning is not installed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pruning = require_torch_pruning()
        self._model = model
        with warnings.catch_warnings(), torch.enable_grad(), unfused(model):  # fused products hide which channels interact
            warnings.simplefilter("ignore")
            self._graph = self._pruning.DependencyGraph().build_dependency(model, example_inputs=example(model))

    def group(self, unit: Unit, channels: Sequence[int] | None = None) -> Any:
        """Return the group of layers, with their channel indices, that lose ``channels`` of a unit (by default all)."""
        tp, removed = self._pruning, list(range(unit.size) if channels is None else channels)
        if unit.kind == "embedding":
            first = self._model.get_submodule(unit.name)
            remove = tp.prune_conv_out_channels if isinstance(first, nn.Conv2d) else tp.prune_linear_out_channels
            return self._graph.get_pruning_group(first, remove, removed)
        # Start at the layer that reads the channels: there an attention's channels are not divided into q, k and v.
        return self._graph.get_pruning_group(self._model.get_submodule(unit.last), tp.prune_linear_in_channels, removed)


def embedding_group(model: nn.Module, name: str, channels: Sequence[int]) -> Any:
    """Return the group of ``channels`` of the residual stream that begins at layer ``name``."""
    return Groups(model).group(Unit(name, "embedding", 0), channels)


def require_torch_pruning() -> Any:
    """Return the package ``torch_pruning``.

    Raises:
        PmqError: the package is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        raise PmqError("pruning needs 'torch-pruning', which is not installed; pip install 'pmq[prune]'") from None
    return torch_pruning
