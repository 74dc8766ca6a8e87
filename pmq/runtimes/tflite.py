"""LiteRT models: conversion, insertion of layers, writing and reading."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from torch import Tensor, nn

from pmq.runtimes.flatbuffer import LAYER, NAME, OPS, TYPES, Graph, empty_model
from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.marker import Marker, marked

#: names of the types of weights in a latency table
STORED = {TYPES.INT8: "w8", TYPES.INT4: "w4", TYPES.FLOAT16: "w16-half", TYPES.FLOAT32: "wfp32"}
#: maximum number of metadata entries that are read: the converter writes two or three, and pmq's follows
ENTRIES = 100


class _Composite(Marker):
    """Placeholder that leaves an operation ``pmq.layer`` in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of the layer's output, whose computation is discarded later."""
        from litert_torch.hlfb import StableHLOCompositeBuilder

        builder = StableHLOCompositeBuilder(name=LAYER, attr={NAME: self.name})
        x = builder.mark_inputs(x)
        corner = x[..., :1] if self.convolution is None else x[:, :1, :1, :1]
        return builder.mark_outputs(2 * corner.expand(self.shape(x)))


def take_skeleton(model: nn.Module, layers: Sequence[str], image: Tensor) -> Any:
    """Convert ``model``, which is not modified, with an operation ``pmq.layer`` in place of each of ``layers``."""
    import litert_torch

    logging.getLogger("litert_torch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        content = litert_torch.convert(marked(model, layers, _Composite).eval(), (image,)).model_content()
    skeleton = unpacked(content)
    for tensor in skeleton.subgraphs[0].tensors:
        tensor.name = b""  # the names are long and unused
    return skeleton


def single(layer: DeployLayer, shape: tuple[int, ...]) -> Any:
    """Return a graph that consists of the placeholder of one layer, whose input has ``shape``."""
    b = Graph(empty_model())
    x = b.tensor(shape)
    rows = (*shape[:-1], layer.shape[0])
    if layer.patch:
        rows = (shape[0], layer.shape[0], shape[2] // layer.patch[0], shape[3] // layer.patch[1])
    y = b.tensor(rows)
    b.graph.inputs, b.graph.outputs = [x], [y]
    b.marker(layer.name, x, y)
    return b.model


def fill(skeleton: Any, layers: Sequence[DeployLayer], emit: Callable[[Graph, DeployLayer, int, int], None]) -> Any:
    """Return a copy of the skeleton with each placeholder replaced by the operators that ``emit`` adds for its layer."""
    model = copy.deepcopy(skeleton)
    named = {layer.name: layer for layer in layers}
    b = Graph(model)
    operators, b.graph.operators = b.graph.operators, []
    for operator in operators:
        name = b.marked(operator)
        if name is None:
            b.graph.operators.append(operator)
        else:
            emit(b, named[name], int(operator.inputs[0]), int(operator.outputs[0]))
    b.compact()
    return model


class _Sharing(Builder):  # type: ignore[misc]
    """Builder that writes equal vectors once: zero points, of eight bytes per row, would otherwise be 3 % of a file."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> Any:
        """Write a vector, or return the offset of an equal one."""
        key = (str(x.dtype), x.tobytes())
        if key not in self._written:
            self.Prep(16, x.nbytes)  # the format requires aligned constants
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def packed(model: Any) -> bytes:
    """Return the bytes of a file."""
    builder = _Sharing(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def unpacked(content: bytes) -> Any:
    """Return the model whose bytes :func:`packed` returned."""
    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def with_metadata(model: Any, name: str, text: str) -> Any:
    """Return a copy of the model with an additional metadata entry."""
    changed, entry, buffer = copy.copy(model), schema.MetadataT(), schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    changed.buffers, changed.metadata = [*model.buffers, buffer], [*(model.metadata or []), entry]
    return changed


def metadata(content: bytes, name: str) -> str:
    """Return an entry of a file's metadata, empty if missing, without reading the rest of the file."""
    model = schema.Model.GetRootAs(content, 0)
    for i in range(min(model.MetadataLength(), ENTRIES)):
        entry = model.Metadata(i)
        if entry.Name() == name.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode()
    return ""


def read_layers(model: Any) -> dict[str, str]:
    """Return each layer's :func:`pmq.cost.latency.layer_key`, determined from the type of its weight."""
    graph = model.subgraphs[0]
    b = Graph(model)
    makers = {int(o.outputs[0]): o for o in graph.operators}
    modes = {}
    for operator in graph.operators:
        if b.code(operator) != OPS.FULLY_CONNECTED:
            continue
        maker = makers.get(int(operator.inputs[1]))
        weight = graph.tensors[int(operator.inputs[1]) if maker is None else int(maker.inputs[0])]
        layer, quantization = weight.name.decode().removesuffix(".weight"), weight.quantization
        blocked = quantization is not None and quantization.details is not None
        group = f"-group{quantization.details.blockSize}" if blocked else ""
        integer = maker is None and weight.type in (TYPES.INT8, TYPES.INT4)
        modes[layer] = f"{STORED.get(weight.type, '?')}{group} x {'8-dynamic' if integer else 'fp32'}"
    return modes
