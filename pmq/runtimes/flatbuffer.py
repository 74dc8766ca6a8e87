"""Builder of LiteRT graphs from objects of the file format's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from numpy.typing import NDArray

from pmq.runtimes.layer import nibbles

Array = NDArray[Any]
OPS, TYPES = schema.BuiltinOperator, schema.TensorType
#: name of the placeholder operation of a layer, and of its attribute that holds the layer's name
LAYER, NAME = "pmq.layer", "layer"
#: versions of the runtime's kernels: the newest that any choice of a kernel needs
VERSIONS = {OPS.FULLY_CONNECTED: 13, OPS.DEQUANTIZE: 3, OPS.TRANSPOSE: 6}
DTYPES = {np.dtype(np.float32): TYPES.FLOAT32, np.dtype(np.float16): TYPES.FLOAT16, np.dtype(np.int8): TYPES.INT8}
DTYPES |= {np.dtype(np.int32): TYPES.INT32}


def empty_model() -> Any:
    """Return a model whose graph has no tensors and no operators."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, b"pmq"
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    return model


class Graph:
    """Editor of a model's graph."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.subgraphs[0]

    def tensor(self, shape: Sequence[int], name: str = "", kind: int = TYPES.FLOAT32, data: Array | None = None) -> int:
        """Add a tensor, which is a constant if ``data`` is passed; return its index."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name, tensor.buffer = np.array(shape, np.int32), kind, name.encode(), 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, value: Array, name: str = "") -> int:
        """Add a constant; return its index."""
        return self.tensor(value.shape, name, DTYPES[value.dtype], value)

    def int4(self, codes: Array, name: str) -> int:
        """Add a constant of 4-bit integers ``(O, I)``, two per byte with the first in the low half; return its index."""
        return self.tensor(codes.shape, name, TYPES.INT4, nibbles(codes.reshape(-1).astype(np.int8) & 15))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(int(n) for n in self.graph.tensors[tensor].shape)

    def quantized(self, tensor: int, scales: Array, block: int | None = None) -> int:
        """Set the scales of a constant: one per row, or one per ``block`` inputs of a row; return its index."""
        parameters = schema.QuantizationParametersT()
        if block is None:
            parameters.scale, parameters.zeroPoint = scales.reshape(-1), np.zeros(scales.size, np.int64)
            parameters.quantizedDimension = 0
        else:
            details = schema.BlockwiseQuantizationT()
            details.scales, details.zeroPoints, details.blockSize = self.constant(scales.astype(np.float16)), -1, block
            parameters.detailsType, parameters.details = schema.QuantizationDetails.BlockwiseQuantization, details
        self.graph.tensors[tensor].quantization = parameters
        return tensor

    def add(self, code: int, inputs: Sequence[int], output: int, options: Any = None) -> int:
        """Add an operator; return its output."""
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._code(code), list(inputs), [output]
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.graph.operators.append(operator)
        return output

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        """Add a reshape; return its output."""
        sides = self.constant(np.array(shape, np.int32))
        return self.add(OPS.RESHAPE, [x, sides], self.tensor(shape))

    def transpose(self, x: int, order: Sequence[int], y: int | None = None) -> int:
        """Add a transpose by the axes ``order``, with ``y`` or a new tensor as its output; return the output."""
        shape = [self.shape(x)[i] for i in order]
        y = self.tensor(shape) if y is None else y
        return self.add(OPS.TRANSPOSE, [x, self.constant(np.array(order, np.int32))], y)

    def patches(self, image: int, patch: tuple[int, int]) -> int:
        """Rearrange an image ``(B, C, H, W)`` to ``(B, H / h, W / w, C * h * w)``, one row per patch; return the output."""
        (batch, channels, *sides), (height, width) = self.shape(image), patch
        rows, columns = sides[0] // height, sides[1] // width
        split = self.reshape(image, (batch, channels, rows, height, columns, width))
        return self.reshape(self.transpose(split, (0, 2, 4, 1, 3, 5)), (batch, rows, columns, channels * height * width))

    def widened(self, half: int) -> int:
        """Cast an FP16 constant to FP32; return the output."""
        return self.add(OPS.DEQUANTIZE, [half], self.tensor(self.shape(half)))

    def product(self, x: int, weight: int, bias: int | None, y: int) -> None:
        """Multiply ``x`` by a weight ``(O, I)`` and add a bias; ``y`` is the output."""
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = options.asymmetricQuantizeInputs = True
        self.add(OPS.FULLY_CONNECTED, [x, weight, -1 if bias is None else bias], y, options)

    def marker(self, name: str, x: int, y: int) -> None:
        """Add the placeholder operation of a layer."""
        self.add(OPS.STABLEHLO_COMPOSITE, [x], y)
        operator, options = self.graph.operators[-1], schema.StableHLOCompositeOptionsT()
        options.name, options.decompositionSubgraphIndex = LAYER, -1
        options.compositeAttributes = np.frombuffer(flexbuffers.Dumps({NAME: name}), np.uint8)
        operator.builtinOptions2Type, operator.builtinOptions2 = schema.BuiltinOptions2.StableHLOCompositeOptions, options

    def marked(self, operator: Any) -> str | None:
        """Return the name of the layer whose placeholder an operator is; None if it is no placeholder."""
        options = operator.builtinOptions2
        if self.code(operator) != OPS.STABLEHLO_COMPOSITE or options.name not in (LAYER, LAYER.encode()):
            return None
        return str(flexbuffers.Loads(bytes(options.compositeAttributes))[NAME])

    def code(self, operator: Any) -> int:
        """Return the code of an operator's operation."""
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def _code(self, code: int) -> int:
        for i, known in enumerate(self.model.operatorCodes):
            if known.builtinCode == code:
                return i
        new = schema.OperatorCodeT()
        new.builtinCode, new.deprecatedBuiltinCode, new.version = code, min(code, 127), VERSIONS.get(code, 1)
        self.model.operatorCodes.append(new)
        return len(self.model.operatorCodes) - 1

    def compact(self) -> None:
        """Delete subgraphs, operation codes and constants that are no longer used."""
        del self.model.subgraphs[1:]
        codes = sorted({o.opcodeIndex for o in self.graph.operators})
        self.model.operatorCodes = [self.model.operatorCodes[i] for i in codes]
        for operator in self.graph.operators:
            operator.opcodeIndex = codes.index(operator.opcodeIndex)
        owners = [*self.graph.tensors, *(self.model.metadata or [])]
        for owner in owners:
            if self.model.buffers[owner.buffer].data is None:
                owner.buffer = 0  # the shared buffer of all tensors that are not constants
        used = sorted({0, *(int(owner.buffer) for owner in owners)})
        self.model.buffers = [self.model.buffers[i] for i in used]
        for owner in owners:
            owner.buffer = used.index(owner.buffer)
