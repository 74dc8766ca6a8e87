"""OpenVINO on a CPU: int8 layers, 4- and 8-bit weights, FP16 weights and FP32, in one graph."""

from __future__ import annotations

import io
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.runtimes.base import register
from pmq.runtimes.modes import BFLOAT16, INT8
from pmq.runtimes.onnx_target import OnnxTarget
from pmq.runtimes.session import FP32, NATIVE, UINT8, Port, Session, named

if TYPE_CHECKING:
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
            return np.array(request.infer([images])[0])

        return Session(
            "OpenVINO", run, [_port(source) for source in compiled.inputs], [_port(result) for result in compiled.outputs]
        )

    def emit(self, layer: DeployLayer, x: str, y: str) -> Any:
        """Return a layer as standard ONNX operators."""
        from pmq.runtimes.layer import nibbles
        from pmq.runtimes.onnx_parts import INT4, PartBuilder

        b = PartBuilder(layer)
        if layer.convolution is not None and layer.patch is None:
            (b.float_convolution if layer.grid is None else partial(_integers, b))(layer, x, y)
            return b.part
        to = y if layer.patch is None else f"{layer.name}/output"
        if layer.grid is not None:
            scale, zero = b.grid(layer)
            x = b.node("QuantizeLinear", [x, scale, zero], "quantized")
            x = b.node("DequantizeLinear", [x, scale, zero], "dequantized")
        if layer.patch:
            x = b.patches(layer, x)
        if layer.codes is None:
            weight = b.float_weight(layer)
        else:
            assert layer.scales is not None
            codes, scales = np.ascontiguousarray(layer.codes.T.astype(np.int8)), np.ascontiguousarray(layer.scales.T)
            if layer.weight.bits == 4:
                packed = nibbles(codes.reshape(-1).astype(np.uint8) & 15)
                weight = b.packed("weight", packed, INT4, codes.shape)
            else:
                weight = b.constant("weight", codes)
            if layer.weight.group_size is None:
                pair = [weight, b.constant("weight.scale", scales[0])]
                weight = b.node("DequantizeLinear", pair, "widened", axis=1)
            else:
                pair = [weight, b.constant("weight.scale", scales)]
                weight = b.node("DequantizeLinear", pair, "widened", axis=0, block_size=layer.weight.group_size)
        b.product(layer, x, weight, to)
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


def _integers(b: PartBuilder, layer: DeployLayer, x: str, y: str) -> None:
    """Add a convolution whose input and weight are quantized."""
    assert layer.scales is not None
    scale, zero = b.grid(layer)
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, scale, zero], "quantized"), scale, zero], "dequantized")
    scales = b.constant("weight.scale", np.ascontiguousarray(layer.scales[:, 0]))
    b.convolution(layer, x, b.node("DequantizeLinear", [b.kernel(layer), scales], "widened", axis=0), y)


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
