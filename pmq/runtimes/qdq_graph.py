"""Integer graphs: each tensor between operators is written in codes, by QuantizeLinear, and read by DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pmq.core.errors import PmqError
from pmq.core.operator_widths import OperatorWidths
from pmq.core.progress import message
from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.onnx_builder import PRODUCT
from pmq.runtimes.operand import DOMAIN, DeployOperand
from pmq.runtimes.qdq_codes import CodeWriter
from pmq.runtimes.qdq_grids import JOIN, MOVES, Grid, Grids, folded
from pmq.runtimes.session import INPUT, OUTPUT
from pmq.runtimes.skeleton import LAYER

Array = NDArray[Any]
NORM, MATMUL = "LayerNormalization", "MatMul"
#: operators whose operands and result have one width
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Gelu", "Relu", "Sigmoid", "Tanh", "Softmax", "ReduceMean", "HardSwish", "HardSigmoid"),
    *("AveragePool", "GlobalAveragePool"),
)
#: largest code of a bias: half of what 32 bits hold, so that sums of products have room as well
LARGEST = 2**30
#: scale and zero point that 16-bit results of these operators must have, by the conventions of QNN's execution provider
FIXED = {"Sigmoid": (1 / 65536, 0), "Tanh": (1 / 32768, 32768)}


def integer_graph(
    skeleton: onnx.ModelProto, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand], operators: OperatorWidths
) -> onnx.ModelProto:
    """Return the skeleton with every tensor quantized, in ONNX's standard domain.

    Args:
        skeleton: graph with placeholders of layers and operands.
        layers: the layers, with integer weights.
        operands: grids of the tensors.
        operators: widths that operators take; a tensor of another width is converted, from DequantizeLinear to QuantizeLinear.

    Raises:
        PmqError: an operator has no form in integers, or does not take the widths of its operands.
    """
    nodes, constants = folded(skeleton)
    named = {operand.name: operand for operand in operands}
    named |= {layer.operand.name: layer.operand for layer in layers if layer.operand is not None}
    fitting = {layer.name: with_room_for_bias(layer) for layer in layers}
    writer = _Writer(Grids(nodes, constants, named), fitting, operators)
    writer.start()
    for node in nodes:
        writer.add(node)
    writer.finish()
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    del model.graph.node[:], model.graph.initializer[:], model.opset_import[:]
    model.graph.node.extend(writer.nodes)
    model.graph.initializer.extend(writer.constants.values())
    model.opset_import.extend(opset for opset in skeleton.opset_import if opset.domain in ("", "ai.onnx"))
    model.producer_name = "pmq"
    return model


class _Writer(CodeWriter):
    """Writer of the operators of an integer graph, between the tensors that they read and write."""

    def __init__(self, grids: Grids, layers: Mapping[str, DeployLayer], operators: OperatorWidths) -> None:
        super().__init__(grids)
        self.layers, self.operators = layers, operators

    def start(self) -> None:
        """Quantize the graph's input."""
        self.write(INPUT, INPUT, self.grid(INPUT).bits)

    def finish(self) -> None:
        """Return the graph's output in FP32."""
        tensor = self.grids.name(OUTPUT)
        grid = self.grids.get(tensor)
        if grid is None:  # of a layer alone
            self.node("Identity", [f"{tensor} float"], OUTPUT)
        else:
            self.node("DequantizeLinear", [self.code(tensor, grid.bits), *self.parameters(grid)], OUTPUT)

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node of the skeleton between quantized tensors."""
        if node.domain == DOMAIN:
            if node.op_type == LAYER:
                self._layer(node)
        elif node.op_type == JOIN:
            self._join(node)
        elif node.op_type in MOVES:
            self._move(node)
        elif self.grids.factor(node) is not None:
            self._rescale(node)
        elif node.op_type == NORM:
            self._norm(node)
        elif node.op_type == MATMUL or node.op_type in ELEMENTWISE:
            self._compute(node)
        else:
            raise PmqError(f"operator {node.op_type} has no form in integers; choose another target, or another model")

    def _move(self, node: onnx.NodeProto) -> None:
        """Move values, whose codes stay the same."""
        bits = self.grid(node.input[0]).bits
        floats = [self.floats(node.input[0], bits), *(self.integers(name) for name in node.input[1:])]
        outputs = [f"{name} float" for name in node.output]
        self.nodes.append(_copy(node, floats, outputs))
        for result, value in zip(node.output, outputs, strict=True):
            self.write(result, value, bits)

    def _join(self, node: onnx.NodeProto) -> None:
        """Join tensors, each of which is first converted to the grid of the result."""
        grid = self.grid(node.output[0])
        floats = [self.on_grid(name, grid) for name in node.input]
        self.nodes.append(_copy(node, floats, [f"{node.output[0]} float"]))
        self.write(node.output[0], f"{node.output[0]} float", grid.bits)

    def _rescale(self, node: onnx.NodeProto) -> None:
        """Multiply by a number: the scale of the result's grid differs, its codes do not."""
        tensor = next(name for name in node.input if self.grids.number(name) is None)
        bits = self.grid(tensor).bits
        self._emit(node, [bits] * len(node.input), bits)

    def _compute(self, node: onnx.NodeProto) -> None:
        inputs = [name for name in node.input if name]
        tensors = inputs[:1] if node.op_type == "ReduceMean" else inputs
        widths, result = [self.width(name) for name in tensors], self.grid(node.output[0]).bits
        match: tuple[int, ...] | None
        if node.op_type == MATMUL:
            match = next((o for o in self.operators.product if list(o[:2]) == widths and o[2] >= result), None)
        else:
            width = next((b for b in sorted(self.operators.elementwise) if b >= max(*widths, result)), None)
            match = None if width is None else tuple([width] * (len(widths) + 1))
        if match is None:
            raise PmqError(f"operator {node.op_type} of {self.grid(node.output[0]).name!r} takes no {_text(widths, result)}")
        self._emit(node, list(match[:-1]), match[-1])

    def _emit(self, node: onnx.NodeProto, widths: Sequence[int], result: int) -> None:
        """Add an operator between its dequantized operands, at their widths, and its quantized result."""
        floats = [self.floats(name, bits) for name, bits in zip(node.input, widths, strict=False)]
        floats += [self.integers(name) for name in node.input[len(widths) :]]
        output = f"{node.output[0]} float"
        self.nodes.append(_copy(node, floats, [output]))
        self.write(node.output[0], output, result, FIXED.get(node.op_type) if result == 16 else None)

    def _norm(self, node: onnx.NodeProto) -> None:
        source, scale, *bias = node.input
        widths, result = [self.width(source), self.width(scale)], self.grid(node.output[0]).bits
        order = sorted(self.operators.norm, key=sum)
        match = next((o for o in order if o[0] >= widths[0] and o[1] >= widths[1] and o[2] >= result), None)
        if match is None:
            raise PmqError(f"norm {self.grid(node.output[0]).name!r} takes no {_text(widths, result)}")
        floats = [self.floats(source, match[0]), self.floats(scale, match[1])]
        if bias and bias[0]:
            number = self.grids.number(scale)
            grid = (Grid.of_number(number) if number is not None else self.grid(scale)).at(match[1])
            step = np.array(self.grid(source).at(match[0]).scale * grid.scale, np.float32)
            floats.append(self.bias(f"{self.grid(node.output[0]).name} bias", self.grids.values[bias[0]], step))
        output = f"{node.output[0]} float"
        self.nodes.append(_copy(node, floats, [output]))
        self.write(node.output[0], output, match[2])

    def _layer(self, node: onnx.NodeProto) -> None:
        """Add a convolution, or a linear layer as a product of matrices with the bias inside."""
        layer = self.layers[helper.get_node_attr_value(node, "layer").decode()]
        bits, grid = self.width(node.input[0]), self.grids.get(node.output[0])
        result = bits if grid is None else grid.bits
        match = next((o for o in self.operators.layer if o[:2] == (bits, layer.weight.bits) and o[2] >= result), None)
        if match is None:
            raise PmqError(f"layer {layer.name!r} takes no {_text([bits, layer.weight.bits], result)}")
        x = self.floats(node.input[0], bits)
        calls = self._calls[layer.name] = self._calls.get(layer.name, 0) + 1
        suffix = f":{calls}" if calls > 1 else ""
        parameters = [self._weight(layer)]
        if layer.bias is not None:
            assert layer.scales is not None
            step = (np.float32(self.grid(node.input[0]).scale) * layer.scales[:, 0]).astype(np.float32)
            parameters.append(self.bias(f"{layer.name}.bias{suffix}", layer.bias, step))
        name, output = f"{layer.name}/{PRODUCT}{suffix}", f"{node.output[0]} float"
        if layer.convolution is not None:
            self.node("Conv", [x, *parameters], output, name, **_sides(layer))
        else:
            self._matrix(node, layer, x, parameters, name, output)
        if grid is not None:
            self.write(node.output[0], output, match[2])

    def _matrix(self, node: onnx.NodeProto, layer: DeployLayer, x: str, parameters: list[str], name: str, output: str) -> None:
        """Multiply rows by a matrix; the sides before the last one are flattened, and restored behind."""
        shape = list(helper.get_node_attr_value(node, "shape"))
        if len(shape) == 2:
            self.node("Gemm", [x, *parameters], output, name, transB=1)
            return
        source, grid = self.grid(node.input[0]), self.grids.get(node.output[0])
        rows = [self.constant(f"sides {s}", np.array(s, np.int64)) for s in ([-1, layer.shape[1]], shape)]
        flat = self.node("Reshape", [x, rows[0]], f"{output} rows")
        flat = self.requantized(flat, source)
        product = self.node("Gemm", [flat, *parameters], f"{output} product", name, transB=1)
        if grid is not None:
            product = self.requantized(product, grid.at(max(grid.bits, source.bits)))
        self.node("Reshape", [product, rows[1]], output)

    def _weight(self, layer: DeployLayer) -> str:
        """Add a weight, int8 or int4, with a scale for each output."""
        assert layer.codes is not None and layer.scales is not None
        name, bits = f"{layer.name}.weight", layer.weight.bits
        if bits == 4 and name not in self.constants:
            kind, data = TensorProto.INT4, layer.codes.reshape(-1).astype(np.int8)
            self.constants[name] = helper.make_tensor(name, kind, layer.value.shape, data)
        elif bits == 8:
            self.constant(name, layer.codes.reshape(layer.value.shape).astype(np.int8))
        parts = [name, self.constant(f"{name}.scale", layer.scales[:, 0].astype(np.float32))]
        output = f"{name} float"
        if all(node.output[0] != output for node in self.nodes):
            self.node("DequantizeLinear", parts, output, axis=0)
        return output


def with_room_for_bias(layer: DeployLayer) -> DeployLayer:
    """Return a layer whose biases fit into 32 bits: outputs with tiny weights beside a large bias get coarser weights.

    This is the one place where a file differs from the simulation, so a message says so; the proof of layers alone covers it.
    """
    if layer.bias is None or layer.scales is None or layer.codes is None or layer.operand is None:
        return layer
    least = np.abs(layer.bias.astype(np.float64)) / (LARGEST * float(layer.operand.parameters["scale"].reshape(-1)[0]))
    scales = layer.scales.astype(np.float64)
    if (scales[:, 0] >= least).all():
        return layer
    coarser = np.maximum(scales[:, 0], least)[:, None]
    message(f"the biases of {int((scales[:, 0] < least).sum())} outputs of {layer.name!r} need coarser weights to fit 32 bits")
    return replace(layer, codes=np.round(layer.codes * (scales / coarser)), scales=coarser.astype(np.float32))


def _copy(node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    del copied.input[:], copied.output[:]
    copied.input.extend(inputs)
    copied.output.extend(outputs)
    return copied


def _text(widths: Sequence[int], result: int) -> str:
    return f"{' x '.join(map(str, widths))} bits with a result of {result} bits"


def _sides(layer: DeployLayer) -> dict[str, Any]:
    geometry = layer.convolution
    assert geometry is not None
    if geometry.transposed:
        raise PmqError(f"layer {layer.name!r} is a transposed convolution, which this target does not have; choose another one")
    pads = [before for before, _ in geometry.padding] + [behind for _, behind in geometry.padding]
    return {"strides": list(geometry.stride), "pads": pads, "dilations": list(geometry.dilation), "group": geometry.groups}
