"""Full-integer LiteRT graphs: the operators of an exported graph, between tensors of int8 and int16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import helper

from pmq.core.errors import PmqError
from pmq.core.operator_widths import OperatorWidths
from pmq.runtimes.flatbuffer import OPS, TYPES
from pmq.runtimes.layer import DeployLayer, nibbles
from pmq.runtimes.operand import DOMAIN, DeployOperand
from pmq.runtimes.qdq_graph import with_room_for_bias
from pmq.runtimes.qdq_grids import JOIN, MOVES, Grids, folded
from pmq.runtimes.session import INPUT, OUTPUT
from pmq.runtimes.skeleton import LAYER
from pmq.runtimes.static_codes import KINDS, TensorWriter
from pmq.runtimes.static_moves import move
from pmq.runtimes.static_pixels import pixel_grids, takes_pixels, without_casts

Array = NDArray[Any]
#: elementwise operators by their name in ONNX; ADD and SUB compute int16 at any scale only without this option
ELEMENTWISE: dict[str, tuple[int, Callable[[], Any] | None]] = {
    "Add": (OPS.ADD, schema.AddOptionsT),
    "Sub": (OPS.SUB, schema.SubOptionsT),
    "Mul": (OPS.MUL, schema.MulOptionsT),
    "Div": (OPS.DIV, schema.DivOptionsT),
    "Sqrt": (OPS.SQRT, None),
    "Gelu": (OPS.GELU, schema.GeluOptionsT),
    "Relu": (OPS.RELU, None),
    "Sigmoid": (OPS.LOGISTIC, None),
    "Tanh": (OPS.TANH, None),
    "Softmax": (OPS.SOFTMAX, schema.SoftmaxOptionsT),
    "ReduceMean": (OPS.MEAN, schema.ReducerOptionsT),
}
#: operators that have 16 bits: DIV and SQRT of int8 are coarse, and those whose results have fixed scales would be as well
WIDE = ("Div", "Sqrt", "Sigmoid", "Tanh", "Softmax")
#: scale that 16-bit results of these operators must have
FIXED = {"Sigmoid": 1 / 32768, "Tanh": 1 / 32768, "Softmax": 1 / 32768}


def static_graph(
    skeleton: onnx.ModelProto, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand], operators: OperatorWidths
) -> Any:
    """Return a model of LiteRT's schema that computes an exported graph with integers, or without any grid in FP32.

    Args:
        skeleton: graph with placeholders of layers and operands.
        layers: the layers, with integer weights.
        operands: grids of the tensors.
        operators: widths that operators take; a tensor of another width is converted by QUANTIZE.

    Raises:
        PmqError: an operator has no form in LiteRT, or does not take the widths of its operands.
    """
    nodes, constants = folded(skeleton)
    named = {operand.name: operand for operand in operands}
    named |= {o.name: o for layer in layers for o in (layer.operand, layer.result) if o is not None}
    pixels = takes_pixels(skeleton)
    nodes = without_casts(nodes) if pixels else nodes
    known = pixel_grids(nodes, constants) if pixels and named else {}
    sides = [side.dim_value for side in skeleton.graph.input[0].type.tensor_type.shape.dim]
    writer = _Writer(Grids(nodes, constants, named, known), {INPUT: sides}, layers, operators)
    writer.start(pixels)
    for node in nodes:
        writer.add(node)
    writer.end()
    return writer.b.model


class _Writer(TensorWriter):
    """Writer of the operators of a LiteRT graph, between the tensors that they read and write."""

    def __init__(
        self, grids: Grids, shapes: Mapping[str, Sequence[int]], layers: Sequence[DeployLayer], operators: OperatorWidths
    ) -> None:
        super().__init__(grids, shapes)
        self.layers, self.operators = {layer.name: with_room_for_bias(layer) for layer in layers}, operators
        self._constants: dict[str, int] = {}

    def start(self, pixels: bool) -> None:
        """Add the graph's input, pixel values or prepared images, and quantize it."""
        source = self.b.tensor(self.shapes[INPUT], INPUT, TYPES.UINT8 if pixels else TYPES.FLOAT32)
        self.b.graph.inputs = [source]
        if pixels:
            self.b.quantized(source, np.ones(1, np.float32))
        if self.floats and pixels:
            self._tensors[INPUT, 32] = self.converted(source, None)
        elif self.floats:
            self._tensors[INPUT, 32] = source
        else:
            self.finish(INPUT, source)

    def end(self) -> None:
        """Return the graph's output in FP32."""
        result = self.code(OUTPUT, self.width(OUTPUT))
        result = result if self.floats else self.converted(result, None)
        self.b.graph.tensors[result].name = OUTPUT.encode()
        self.b.graph.outputs = [result]

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node of the skeleton."""
        if node.domain == DOMAIN:
            if node.op_type == LAYER:
                self._layer(node)
        elif node.op_type == JOIN:
            self._join(node)
        elif node.op_type in MOVES:
            move(self, node)
        elif node.op_type == "MatMul":
            self._product(node)
        elif node.op_type in ELEMENTWISE:
            self._compute(node)
        else:
            raise PmqError(f"operator {node.op_type} has no form in LiteRT's integers; choose another target, or another model")

    def _join(self, node: onnx.NodeProto) -> None:
        """Join tensors, each of which is first converted to the grid of the result."""
        grid = None if self.floats else self.grid(node.output[0])
        options = schema.ConcatenationOptionsT()
        shapes = [self.shape(name) for name in node.input]
        options.axis = int(helper.get_node_attr_value(node, "axis")) % len(shapes[0])
        shape = list(shapes[0])
        shape[options.axis] = sum(s[options.axis] for s in shapes)
        parts = [self.on_grid(name, grid) for name in node.input]
        self.b.add(OPS.CONCATENATION, parts, self.result(node.output[0], shape, self.width(node.output[0])), options)

    def _product(self, node: onnx.NodeProto) -> None:
        widths, result = [self.width(name) for name in node.input], self.width(node.output[0])
        match = (32, 32, 32)
        if not self.floats:
            fitting = [o for o in self.operators.product if o[0] >= widths[0] and o[1] >= widths[1] and o[2] >= result]
            if not fitting:
                raise PmqError(f"BATCH_MATMUL of {self.grid(node.output[0]).name!r} takes no {_text(widths, result)}")
            match = min(fitting)
        left, right = (self.shape(name) for name in node.input)
        shape = (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
        y = self.result(node.output[0], shape, match[2])
        operands = [self.code(name, bits) for name, bits in zip(node.input, match[:2], strict=True)]
        self.b.add(OPS.BATCH_MATMUL, operands, y, schema.BatchMatMulOptionsT())
        self.finish(node.output[0], y)

    def _compute(self, node: onnx.NodeProto) -> None:
        kind, output = node.op_type, node.output[0]
        code, make = ELEMENTWISE[kind]
        tensors = [name for name in node.input if name][: 1 if kind == "ReduceMean" else 2]
        least = max([self.width(name) for name in (*tensors, output)] + [16 if kind in WIDE and not self.floats else 8])
        bits = 32 if self.floats else next((b for b in sorted(self.operators.elementwise) if b >= least), None)
        if bits is None:
            raise PmqError(f"operator {kind} of {self.grid(output).name!r} takes no operands or results of {least} bits")
        options: Any = None if make is None else make()
        shape: Sequence[int] = np.broadcast_shapes(*(self.shape(name) for name in tensors))
        inputs = [self.code(name, bits) for name in tensors]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if kind in ("Add", "Sub"):
            options.potScaleInt16 = False
        elif kind == "Gelu":
            options.approximate = attributes.get("approximate", b"none") == b"tanh"
        elif kind == "Softmax":
            options.beta = 1.0
            if attributes.get("axis", -1) not in (-1, len(shape) - 1):
                raise PmqError("LiteRT's SOFTMAX computes over the last axis alone; choose another target, or another model")
        elif kind == "ReduceMean":
            axes = sorted(int(axis) % len(shape) for axis in self.integers(node.input[1]).reshape(-1))
            options.keepDims = bool(attributes.get("keepdims", 1))
            inputs.append(self.b.constant(np.array(axes, np.int32)))
            shape = [1 if i in axes else n for i, n in enumerate(shape) if options.keepDims or i not in axes]
        y = self.result(output, shape, bits, None if self.floats else FIXED.get(kind))
        self.b.add(code, inputs, y, options)
        self.finish(output, y)

    def _layer(self, node: onnx.NodeProto) -> None:
        """Add a linear layer or a convolution, whose values have channels last here."""
        layer, source, output = self.layers[helper.get_node_attr_value(node, "layer").decode()], node.input[0], node.output[0]
        bits, result, top = self.width(source), self.width(output), 32
        if not self.floats:
            match = next((o for o in self.operators.layer if o[:2] == (bits, layer.weight.bits) and o[2] >= result), None)
            if match is None:
                raise PmqError(f"layer {layer.name!r} takes no {_text([bits, layer.weight.bits], result)}")
            top = match[2]
        x, shape, options = self.code(source, bits), self.shape(source), schema.FullyConnectedOptionsT()
        if layer.convolution is None:
            options.keepNumDims = True
            y = self.result(output, (*shape[:-1], layer.shape[0]), top)
            self.b.add(OPS.FULLY_CONNECTED, [x, *self._parameters(layer, source)], y, options)
            self.finish(output, y)
            return
        geometry = layer.convolution
        if not geometry.plain or len(shape) != 4:
            raise PmqError(f"convolution {layer.name!r} has padding, groups or another form that this target does not have")
        sides = [(n - k) // s + 1 for n, k, s in zip(shape[2:], layer.value.shape[2:], geometry.stride, strict=True)]
        conv = schema.Conv2DOptionsT()
        conv.padding, (conv.strideH, conv.strideW) = schema.Padding.VALID, geometry.stride
        y = self.result(output, (shape[0], layer.shape[0], *sides), top)
        rows = self._like(x, [shape[i] for i in (0, 2, 3, 1)])
        maps = self._like(y, (shape[0], *sides, layer.shape[0]))
        self.b.transpose(x, (0, 2, 3, 1), rows)
        self.b.add(OPS.CONV_2D, [rows, *self._parameters(layer, source)], maps, conv)
        self.b.transpose(maps, (0, 3, 1, 2), y)
        self.finish(output, y)

    def _like(self, tensor: int, shape: Sequence[int]) -> int:
        """Add a tensor of the type and grid of another one."""
        known = self.b.graph.tensors[tensor]
        new = self.b.tensor(shape, "", known.type)
        self.b.graph.tensors[new].quantization = known.quantization
        return new

    def _parameters(self, layer: DeployLayer, source: str) -> list[int]:
        """Add a weight with a scale for each output, and a bias of 32 bits, or of 64 beside 16-bit inputs."""
        order = (0, 1) if layer.convolution is None else (0, 2, 3, 1)
        if self.floats:
            if layer.name not in self._constants:
                self._constants[layer.name] = self.b.constant(layer.value.transpose(order), f"{layer.name}.weight")
            return [self._constants[layer.name], -1 if layer.bias is None else self.b.constant(layer.bias)]
        assert layer.codes is not None and layer.scales is not None
        if layer.name not in self._constants:
            codes = layer.codes.reshape(layer.value.shape).transpose(order).astype(np.int8)
            kind = KINDS[layer.weight.bits]
            data = nibbles(codes.reshape(-1) & 15) if kind == TYPES.INT4 else codes
            weight = self.b.tensor(codes.shape, f"{layer.name}.weight", kind, data)
            self._constants[layer.name] = self.b.quantized(weight, layer.scales[:, 0].astype(np.float32))
        weight = self._constants[layer.name]
        if layer.bias is None:
            return [weight, -1]
        grid = self.grid(source)
        steps = np.float64(grid.scale) * layer.scales[:, 0].astype(np.float64)
        sums = np.round(layer.bias.astype(np.float64) / steps)
        kind, dtype = (TYPES.INT32, np.int32) if grid.bits == 8 else (TYPES.INT64, np.int64)
        bias = self.b.tensor(sums.shape, f"{layer.name}.bias", kind, sums.astype(dtype))
        return [weight, self.b.quantized(bias, steps.astype(np.float32))]


def _text(widths: Sequence[int], result: int) -> str:
    return f"{' x '.join(map(str, widths))} bits with a result of {result} bits"
