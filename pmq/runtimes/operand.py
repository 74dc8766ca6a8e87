"""Quantized activations in the form that runtimes need, and their placeholders in exported graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.component import Inventory
from pmq.core.quantizer_parameters import QUANTIZER_PARAMETERS
from pmq.graph import CapturedModel, component_of
from pmq.quant import Quantized
from pmq.quant.quantizers import Codebook, Relative

Array = NDArray[Any]
#: domain and name of the placeholder node of an operand
DOMAIN, OPERAND = "pmq", "Operand"
#: quantizers whose levels are integers of an 8-bit grid
ON_GRID = ("affine", "codebook")


@dataclass(frozen=True)
class DeployOperand:
    """Quantized activation as it is deployed: the input of a layer, or an operand of a product of activations.

    Attributes:
        name: name of the component.
        choice: its choice.
        parameters: parameters of the fitted quantizer, each ``(1,)`` or ``(H,)`` with a value for each head.
    """

    name: str
    choice: Choice
    parameters: Mapping[str, Array]

    @property
    def on_grid(self) -> bool:
        """Whether every level is an integer of one 8-bit grid, so that integer kernels can multiply it."""
        return self.choice.quantizer in ON_GRID

    @property
    def top(self) -> int:
        """Largest code."""
        return int(2**self.choice.bits - 1)

    @property
    def cells(self) -> tuple[float, float, NDArray[np.int32]]:
        """Even cells of a table of levels: the lowest value, cells per unit, and the first cell of each level but the first.

        The first cells have shape ``(2**bits - 1,)``. Levels of ``relative`` are those of a token whose largest magnitude is one.
        """
        parameters = {key: torch.from_numpy(value) for key, value in self.parameters.items()}
        table = (Relative if self.choice.quantizer == "relative" else Codebook)(parameters, self.choice.bits)
        starts = np.searchsorted(table.code_of_cell.numpy(), np.arange(1, 2**self.choice.bits))
        return table.lowest, table.cells_per_unit, starts.astype(np.int32)


def operand_of(name: str, quantized: Quantized) -> DeployOperand | None:
    """Return a component's operand; None if it is not quantized, or has a grid that is computed at run time."""
    choice, parameters = quantized.assignment.get(name), quantized.parameters.get(name)
    if choice is None or not parameters or not QUANTIZER_PARAMETERS[choice.quantizer].names:
        return None
    return DeployOperand(name, choice, {key: np.array(values, np.float32) for key, values in parameters.items()})


def deploy_operands(inventory: Inventory, quantized: Quantized) -> list[DeployOperand]:
    """Return the quantized operands of a model's products of activations."""
    names = [c.name for c in inventory if c.slot not in ("weight", "input")]
    return [operand for name in names if (operand := operand_of(name, quantized)) is not None]


def mark_operands(model: CapturedModel, operands: list[DeployOperand]) -> None:
    """Change ``model`` such that an exporter leaves a placeholder in its graph where each operand is read."""
    names = {operand.name for operand in operands}
    for path, module in model.tapped.items():
        for slot in module.slots:
            name = f"{component_of(path, slot)}.{slot}"
            if name in names:
                module.functions[slot] = _Symbol(name)


class _Symbol:
    """Tap function that leaves a node ``pmq::Operand`` in an exported graph."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor) -> Tensor:
        attributes: dict[str, Any] = {"operand": self.name}
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{OPERAND}", (x,), attributes, dtype=torch.float32, shape=x.shape, version=1)
