"""onnxruntime on a CPU: int8 layers, 8- and 4-bit weights, FP16 weights and FP32, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pmq.core.choice import BY_TOKEN
from pmq.core.errors import PmqError, one_line
from pmq.cost.latency import layer_key
from pmq.runtimes.base import register
from pmq.runtimes.modes import W4, W8
from pmq.runtimes.onnx_target import OnnxTarget
from pmq.runtimes.session import FP32, UINT8, Port, Session, named

if TYPE_CHECKING:
    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.onnx_parts import PartBuilder

#: accuracy level at which MatMulNBits computes FP32 inputs in FP32
EXACT = 1


@register
class OnnxRuntime(OnnxTarget):
    """Target that writes layers as onnxruntime's operators, which state the computation independently of fusions.

    Its fusion of quantize-dequantize pairs turns integer layers whose output is not quantized into FP32 products.
    """

    name = "onnxruntime"
    extra = "onnx"
    runtime = "onnxruntime"
    lookup = "GatherElements"  # six times as fast as its Gather for single values
    by_token = True
    ragged: ClassVar[tuple[str, ...]] = (W4, W8)

    def session(self, model: Any, threads: int = 1) -> Session:
        """Load a file or model into an inference session on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 4  # PmqError reports its errors once
        content = self.content(model)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no common base class
            raise PmqError(f"onnxruntime cannot load {named(model)}: {one_line(error)}") from None
        sources, results = session.get_inputs(), session.get_outputs()

        def run(images: Any) -> Any:
            return [np.asarray(output) for output in session.run(None, {sources[0].name: images})]

        return Session("onnxruntime", run, [_port(source) for source in sources], [_port(result) for result in results])

    def emit(self, layer: DeployLayer, x: str, y: str) -> Any:
        """Return a layer as onnxruntime's operators."""
        from pmq.runtimes import onnx_dynamic
        from pmq.runtimes.onnx_parts import PartBuilder
        from pmq.runtimes.onnx_quantizers import values

        b = PartBuilder(layer.name, self.lookup)
        if layer.source.quantizer in BY_TOKEN:
            onnx_dynamic.product(b, layer, x, y)
            return b.part
        if layer.convolution is not None and layer.tile is None:
            integer = layer.by_integers and layer.zeros is None and not layer.convolution.transposed
            (_integer_convolution if integer else PartBuilder.float_convolution)(b, layer, x, y)
            return b.part
        to = y if layer.tile is None else f"{layer.name}/output"
        if layer.by_integers:
            _integer_product(b, layer, x, to)
        elif layer.source.is_fp32 and layer_key(layer.weight, layer.source) in (W4, W8):
            _blockwise_product(b, layer, x, to)
        else:
            x = x if layer.operand is None else values(b, layer.operand, x)
            b.product(layer, b.patches(layer, x) if layer.tile else x, b.float_weight(layer), to)
        if layer.tile:
            b.map(to, y)
        return b.part


def _integer_product(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add a product of integers, which returns FP32 values."""
    from pmq.runtimes.onnx_builder import CONTRIB, PRODUCT
    from pmq.runtimes.onnx_quantizers import codes

    assert layer.operand is not None and layer.codes is not None and layer.scales is not None
    x, scale, zero = codes(b, layer.operand, x)
    if layer.tile:
        x = b.patches(layer, x)
    weight = b.integers(layer, layer.shape[::-1], layer.codes.T)
    operands = [x, weight, scale, b.constant("weight.scale", layer.scales[:, 0]), zero, *(b.zero_points(layer) or [""])]
    operands += [] if layer.bias is None else [b.constant("bias", layer.bias)]
    b.node("MatMulIntegerToFloat", operands if operands[-1] else operands[:-1], PRODUCT, y, CONTRIB)


def _blockwise_product(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add a product of FP32 values by integers with a scale for each group of inputs."""
    from pmq.runtimes.layer import nibbles
    from pmq.runtimes.onnx_builder import CONTRIB, PRODUCT

    assert layer.codes is not None and layer.scales is not None and layer.weight.group_size is not None
    if layer.tile:
        x = b.patches(layer, x)
    (outputs, inputs), bits, group = layer.shape, layer.weight.bits, layer.weight.group_size
    padded = np.pad(layer.codes + 2 ** (bits - 1), ((0, 0), (0, -inputs % group)), constant_values=2 ** (bits - 1))
    blocks = padded.astype(np.uint8).reshape(outputs, -1, group)
    packed = b.constant("weight", nibbles(blocks) if bits == 4 else blocks)
    operands = [x, packed, b.constant("weight.scale", layer.scales.reshape(-1))]
    operands += [] if layer.bias is None else ["", "", b.constant("bias", layer.bias)]
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": group, "accuracy_level": EXACT}
    b.node("MatMulNBits", operands, PRODUCT, y, CONTRIB, **attributes)


def _integer_convolution(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add an integer convolution whose sums are scaled afterwards."""
    from onnx import TensorProto

    from pmq.runtimes.onnx_builder import PRODUCT
    from pmq.runtimes.onnx_quantizers import codes

    assert layer.operand is not None and layer.scales is not None
    quantized, _, zero = codes(b, layer.operand, x)
    sums = b.node("ConvInteger", [quantized, b.kernel(layer), zero], PRODUCT, **b.sides(layer))
    floats = b.node("Cast", [sums], "floats", to=TensorProto.FLOAT)
    sides = (-1, *[1] * (layer.value.ndim - 2))
    factor = b.constant("scale", (layer.scales[:, 0] * layer.operand.parameters["scale"][0]).astype(np.float32).reshape(sides))
    if layer.bias is None:
        b.node("Mul", [floats, factor], "scaled", y)
    else:
        scaled = b.node("Mul", [floats, factor], "scaled")
        b.node("Add", [scaled, b.constant("bias", layer.bias.reshape(sides))], "sum", y)


def _port(argument: Any) -> Port:
    sides = [side if isinstance(side, int) else None for side in argument.shape]
    kinds = {"tensor(float)": FP32, "tensor(uint8)": UINT8}
    return Port(kinds.get(argument.type, str(argument.type)), tuple(sides))
