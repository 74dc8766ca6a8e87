"""Base class of formats that are an ONNX model with a JSON file of encodings beside it: scales and offsets of its tensors."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pmq.core.files import write_bytes, write_text
from pmq.exports.base import Format
from pmq.exports.fit import Fitted, Holds
from pmq.exports.grid import Grid

if TYPE_CHECKING:
    from pmq.exports.tensor import ExportModel, QuantizedTensor


@dataclass(frozen=True)
class Encoding:
    """The grid of one tensor of the graph."""

    tensor: str
    grid: Grid
    is_weight: bool


class Encodings(Format):
    """Format of a graph and its encodings; subclasses implement their layout."""

    beside = (".onnx",)
    packages = ("onnx", "onnxscript")
    extra = "onnx"
    weight_bits: ClassVar[tuple[int, ...]]
    activation_bits: ClassVar[tuple[int, ...]]
    #: whether the integers of a weight may lie anywhere around zero
    asymmetric_weights: ClassVar[bool] = True

    def holds(self, model: ExportModel, tensor: QuantizedTensor) -> Holds | str:
        """Return one scale for each output of a weight, or one for an activation."""
        if not tensor.is_weight:
            return Holds(self.activation_bits)
        layer = model.layers[tensor.component.module]
        if layer.convolution is not None and layer.convolution.transposed:
            return "scales of a transposed convolution are for its inputs"
        return Holds(self.weight_bits, ("tensor", "channel"), self.asymmetric_weights)

    def write(self, model: ExportModel, fitted: Fitted, path: Path) -> list[Path]:
        """Write the graph and the encodings."""
        from pmq.exports.onnx_graph import named_graph

        graph = named_graph(model, [name for name in fitted.grids if not model.tensors[name].is_weight])
        encodings = list(_encodings(model, fitted, graph.tensors))
        proto = graph.proto.SerializeToString()
        return [
            write_text(path, json.dumps(self.layout(encodings), indent=1) + "\n"),
            write_bytes(path.with_suffix(".onnx"), proto),
        ]

    @abstractmethod
    def layout(self, encodings: list[Encoding]) -> dict[str, Any]:
        """Return the content of the JSON file."""


def _encodings(model: ExportModel, fitted: Fitted, tensors: dict[str, list[str]]) -> Iterator[Encoding]:
    for name, grid in fitted.grids.items():
        is_weight = model.tensors[name].is_weight
        for tensor in [name] if is_weight else tensors.get(name, []):
            yield Encoding(tensor, grid, is_weight)
