"""OpenVINO on a CPU: int8 layers, 4- and 8-bit weights, FP16 weights and FP32, in one graph."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.cost.latency import INT8, layer_key
from pmq.runtimes.base import Target, register
from pmq.runtimes.modes import BFLOAT16, W4, W8
from pmq.runtimes.onnx_target import OnnxTarget
from pmq.runtimes.session import FP32, NATIVE, UINT8, Port, Session, named

if TYPE_CHECKING:
    from pmq.core.choice import Choice
    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.onnx_parts import PartBuilder


@register
class OpenVino(OnnxTarget):
    """Target that writes layers as ONNX's QuantizeLinear and DequantizeLinear, which OpenVINO fuses to integer products.

    The file is ONNX, which OpenVINO reads directly; OpenVINO's format describes the same graph in half a megabyte of XML.
    """

    name = "openvino"
    extra = "openvino"
    runtime = "openvino"
    #: precision of non-integer computation; OpenVINO's default is bf16 where the processor supports it
    precision = "f32"

    def session(self, model: Any, threads: int = 1) -> Session:
        """Compile a file or model for the CPU."""
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # keeps FP32 inputs in FP32
        }
        core, content = _core(), self.content(model)
        try:
            compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", settings)
            request = compiled.create_infer_request()
        except NATIVE as error:
            raise PmqError(f"OpenVINO cannot load {named(model)}: {one_line(error)}") from None

        def run(images: Any) -> Any:
            computed = request.infer([images])
            return [np.array(computed[i]) for i in range(len(computed))]

        return Session(
            "OpenVINO", run, [_port(source) for source in compiled.inputs], [_port(result) for result in compiled.outputs]
        )

    def emit(self, layer: DeployLayer, x: str, y: str) -> Any:
        """Return a layer as standard ONNX operators."""
        from pmq.runtimes.onnx_parts import PartBuilder
        from pmq.runtimes.onnx_quantizers import values

        b = PartBuilder(layer.name, self.lookup)
        if layer.convolution is not None and layer.patch is None:
            (_integer_convolution if layer.by_integers else PartBuilder.float_convolution)(b, layer, x, y)
            return b.part
        to = y if layer.patch is None else f"{layer.name}/output"
        x = x if layer.operand is None else values(b, layer.operand, x)
        if layer.patch:
            x = b.patches(layer, x)
        b.product(layer, x, _weight(b, layer), to)
        if layer.patch:
            b.map(to, y)
        return b.part


@register
class OpenVinoBf16(OpenVino):
    """OpenVINO with all non-integer computation in bfloat16, for processors with bfloat16 multiplication."""

    name = "openvino-bf16"
    precision = "bf16"
    modes = (INT8, BFLOAT16)
    elsewhere = "16-bfloat16"
    packed_space = None

    def executes(self, choice: Choice) -> bool:
        """Return whether an operand stays in bfloat16, as everything outside integer layers is computed."""
        return choice.label == self.elsewhere

    def check_layer(self, name: str, weight: Choice, source: Choice) -> None:
        """Raise PmqError unless the layer has one of the modes."""
        Target.check_layer(self, name, weight, source)


def _weight(b: PartBuilder, layer: DeployLayer) -> str:
    """Add a weight; return the name of its FP32 values ``(I, O)``, which OpenVINO computes from integers in its kernels."""
    from pmq.runtimes.layer import nibbles
    from pmq.runtimes.onnx_parts import INT4

    if layer.codes is None or not (layer.by_integers or layer_key(layer.weight, layer.source) in (W4, W8)):
        return b.float_weight(layer)
    assert layer.scales is not None
    integers, scales = layer.codes.T, np.ascontiguousarray(layer.scales.T)
    if layer.by_integers:
        operands = [b.integers(layer, layer.shape[::-1], integers), b.constant("weight.scale", scales[0])]
        return b.node("DequantizeLinear", [*operands, *b.zero_points(layer)], "widened", axis=1)
    if layer.weight.bits == 4:
        integers = np.ascontiguousarray(integers.astype(np.int8))
        weight = b.packed("weight", nibbles(integers.reshape(-1).astype(np.uint8) & 15), INT4, integers.shape)
    else:
        weight = b.constant("weight", integers.astype(np.int8))
    pair = [weight, b.constant("weight.scale", scales)]
    return b.node("DequantizeLinear", pair, "widened", axis=0, block_size=layer.weight.group_size)


def _integer_convolution(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add a convolution whose input and weight are quantized."""
    from pmq.runtimes.onnx_quantizers import values

    assert layer.operand is not None and layer.scales is not None
    x, scales = values(b, layer.operand, x), b.constant("weight.scale", np.ascontiguousarray(layer.scales[:, 0]))
    b.convolution(layer, x, b.node("DequantizeLinear", [b.kernel(layer), scales, *b.zero_points(layer)], "widened", axis=0), y)


def _port(argument: Any) -> Port:
    kind, shape = argument.element_type.get_type_name(), argument.partial_shape
    if shape.rank.is_dynamic:
        return Port(f"{kind} of any shape", ())
    sides = [None if side.is_dynamic else int(side.get_length()) for side in shape]
    return Port({"f32": FP32, "u8": UINT8}.get(kind, kind), tuple(sides))


@cache
def _core() -> Any:
    """Return the single core of this process.

    A core's CPU plugin installs an alternate signal stack and frees it when the core is destroyed: a later Ctrl-C would then
    be handled on freed memory, which crashes or corrupts the process.
    """
    import openvino

    return openvino.Core()
