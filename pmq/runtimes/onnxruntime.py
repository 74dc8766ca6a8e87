"""onnxruntime on a CPU: int8 layers, 8- and 4-bit weights, FP16 weights and FP32, in one file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.runtimes.base import register
from pmq.runtimes.onnx_target import OnnxTarget
from pmq.runtimes.session import FP32, UINT8, Port, Session, named

if TYPE_CHECKING:
    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.onnx_parts import PartBuilder

#: domain of the operators that onnxruntime adds to ONNX
CONTRIB = "com.microsoft"
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
    ragged = True

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
            return np.asarray(session.run(None, {sources[0].name: images})[0])

        return Session("onnxruntime", run, [_port(source) for source in sources], [_port(result) for result in results])

    def emit(self, layer: DeployLayer, x: str, y: str) -> Any:
        """Return a layer as onnxruntime's operators."""
        from pmq.runtimes.layer import nibbles
        from pmq.runtimes.onnx_parts import PRODUCT, PartBuilder

        b = PartBuilder(layer)
        if layer.convolution is not None and layer.tile is None:
            (b.float_convolution if layer.grid is None else partial(_integers, b))(layer, x, y)
            return b.part
        outputs, inputs = layer.shape
        rows_to = None if layer.tile is None else f"{layer.name}/output"
        to = rows_to or y
        if layer.grid is not None:
            assert layer.codes is not None and layer.scales is not None
            scale, zero = b.grid(layer)
            x = b.node("QuantizeLinear", [x, scale, zero], "quantized")
            if layer.tile:
                x = b.patches(layer, x)
            weight = b.constant("weight", layer.codes.T.astype(np.int8))
            operands = [x, weight, scale, b.constant("weight.scale", layer.scales[:, 0]), zero]
            if layer.bias is not None:
                operands += ["", b.constant("bias", layer.bias)]
            b.node("MatMulIntegerToFloat", operands, PRODUCT, to, CONTRIB)
        else:
            if layer.tile:
                x = b.patches(layer, x)
            if layer.codes is not None:
                assert layer.scales is not None and layer.weight.group_size is not None
                bits, group = layer.weight.bits, layer.weight.group_size
                codes = np.pad(layer.codes + 2 ** (bits - 1), ((0, 0), (0, -inputs % group)), constant_values=2 ** (bits - 1))
                blocks = codes.astype(np.uint8).reshape(outputs, -1, group)
                packed = b.constant("weight", nibbles(blocks) if bits == 4 else blocks)
                operands = [x, packed, b.constant("weight.scale", layer.scales.reshape(-1))]
                operands += [] if layer.bias is None else ["", "", b.constant("bias", layer.bias)]
                attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": group, "accuracy_level": EXACT}
                b.node("MatMulNBits", operands, PRODUCT, to, CONTRIB, **attributes)
            else:
                b.product(layer, x, b.float_weight(layer), to)
        if layer.tile:
            b.map(to, y)
        return b.part


def _integers(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add an integer convolution whose sums are scaled afterwards."""
    from onnx import TensorProto

    from pmq.runtimes.onnx_parts import PRODUCT

    assert layer.grid is not None and layer.scales is not None
    scale, zero = b.grid(layer)
    quantized = b.node("QuantizeLinear", [x, scale, zero], "quantized")
    sums = b.node("ConvInteger", [quantized, b.kernel(layer), zero], PRODUCT, **b.sides(layer))
    floats = b.node("Cast", [sums], "floats", to=TensorProto.FLOAT)
    sides = (-1, *[1] * (layer.value.ndim - 2))
    factor = b.constant("scale", (layer.scales[:, 0] * np.float32(layer.grid[0])).astype(np.float32).reshape(sides))
    if layer.bias is None:
        b.node("Mul", [floats, factor], "scaled", y)
    else:
        scaled = b.node("Mul", [floats, factor], "scaled")
        b.node("Add", [scaled, b.constant("bias", layer.bias.reshape(sides))], "sum", y)


def _port(argument: Any) -> Port:
    sides = [side if isinstance(side, int) else None for side in argument.shape]
    kinds = {"tensor(float)": FP32, "tensor(uint8)": UINT8}
    return Port(kinds.get(argument.type, str(argument.type)), tuple(sides))
