"""Models of LiteRT: taken from timm's, filled with layers, written and read."""

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

from pmq.runtimes.flatbuffer import LAYER, NAME, OPS, TYPES, Graph
from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.marker import Marker, marked

#: types of weights as they are called in a latency table
STORED = {TYPES.INT8: "w8", TYPES.INT4: "w4", TYPES.FLOAT16: "w16-half", TYPES.FLOAT32: "wfp32"}
#: of a file's metadata that are looked at: a converter writes two or three, and ours follows
ENTRIES = 100


class _Composite(Marker):
    """Leaves an operation of a name of its own in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        """Stand for the layer's output; what is computed here is thrown away."""
        from litert_torch.hlfb import StableHLOCompositeBuilder

        builder = StableHLOCompositeBuilder(name=LAYER, attr={NAME: self.name})
        x = builder.mark_inputs(x)
        corner = x[..., :1] if self.patch is None else x[:, :1, :1, :1]
        return builder.mark_outputs(2 * corner.expand(self.shape(x)))


def take_skeleton(model: nn.Module, layers: Sequence[str], image: Tensor) -> Any:
    """Convert ``model``, which is left as it is, with an operation ``pmq.layer`` in place of each of ``layers``."""
    import litert_torch

    logging.getLogger("litert_torch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        content = litert_torch.convert(marked(model, layers, _Composite).eval(), (image,)).model_content()
    found = unpacked(content)
    for tensor in found.subgraphs[0].tensors:
        tensor.name = b""  # long, and nobody needs them
    return found


def single(layer: DeployLayer, shape: tuple[int, ...]) -> Any:
    """A graph of nothing but one layer, whose input has ``shape``."""
    model = schema.ModelT()
    model.version, model.description = 3, b"pmq"
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    b = Graph(model)
    x = b.tensor(shape)
    rows = (*shape[:-1], layer.shape[0])
    if layer.patch:
        rows = (shape[0], layer.shape[0], shape[2] // layer.patch[0], shape[3] // layer.patch[1])
    y = b.tensor(rows)
    graph.inputs, graph.outputs = [x], [y]
    b.marker(layer.name, x, y)
    return model


def fill(skeleton: Any, layers: Sequence[DeployLayer], emit: Callable[[Graph, DeployLayer, int, int], None]) -> Any:
    """Put what ``emit`` adds for each layer in the place of its operation; the skeleton is left as it is."""
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
    """Writes equal vectors once: zero points, of which the format wants eight bytes a row, would be 3 % of a file."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> Any:
        """Write a vector, or point at the one that is the same."""
        key = (str(x.dtype), x.tobytes())
        if key not in self._written:
            self.Prep(16, x.nbytes)  # as the format wants constants aligned
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def packed(model: Any) -> bytes:
    """The bytes of a file."""
    builder = _Sharing(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def unpacked(content: bytes) -> Any:
    """What :func:`packed` wrote."""
    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def with_metadata(model: Any, name: str, text: str) -> Any:
    """The same model with an entry of metadata."""
    changed, entry, buffer = copy.copy(model), schema.MetadataT(), schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    changed.buffers, changed.metadata = [*model.buffers, buffer], [*(model.metadata or []), entry]
    return changed


def metadata(content: bytes, name: str) -> str:
    """An entry of a file's metadata, empty where there is none; nothing else of the file is read."""
    model = schema.Model.GetRootAs(content, 0)
    for i in range(min(model.MetadataLength(), ENTRIES)):
        entry = model.Metadata(i)
        if entry.Name() == name.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode()
    return ""


def read_layers(model: Any) -> dict[str, str]:
    """What each layer does (:func:`pmq.cost.latency.layer_key`), by the types of its weight."""
    graph = model.subgraphs[0]
    b = Graph(model)
    makers = {int(o.outputs[0]): o for o in graph.operators}
    found = {}
    for operator in graph.operators:
        if b.code(operator) != OPS.FULLY_CONNECTED:
            continue
        maker = makers.get(int(operator.inputs[1]))
        weight = graph.tensors[int(operator.inputs[1]) if maker is None else int(maker.inputs[0])]
        layer, quantization = weight.name.decode().removesuffix(".weight"), weight.quantization
        blocked = quantization is not None and quantization.details is not None
        group = f"-group{quantization.details.blockSize}" if blocked else ""
        integer = maker is None and weight.type in (TYPES.INT8, TYPES.INT4)
        found[layer] = f"{STORED.get(weight.type, '?')}{group} x {'8-dynamic' if integer else 'fp32'}"
    return found
