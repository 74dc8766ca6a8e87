"""onnxruntime on a CPU: int8 layers, 8- and 4-bit weights, FP16 weights and FP32, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError
from pmq.core.files import write_bytes
from pmq.deploy.base import OnnxTarget, Session, register

if TYPE_CHECKING:
    from pmq.deploy.layer import DeployLayer

INT8, W4, W8, HALF, FLOAT = "w8 x 8", "w4-group32 x fp32", "w8-group32 x fp32", "w16-half x fp32", "wfp32 x fp32"
#: domain of onnxruntime's own operators
CONTRIB = "com.microsoft"
#: MatMulNBits computes in FP32 what it was given in FP32
EXACT = 1


@register
class OnnxRuntime(OnnxTarget):
    """Layers as onnxruntime's own operators, which say what is to be computed; nothing depends on what it fuses.

    Its fusion of quantize-dequantize pairs makes FP32 products of integer layers whose output is not quantized.
    """

    name = "onnxruntime"
    suffix = ".onnx"
    extra = "onnx"
    runtime = "onnxruntime"
    packages = ("onnx", "onnxscript")
    modes = (INT8, W4, W8, HALF, FLOAT)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer]) -> Any:
        """An ONNX model."""
        from pmq.deploy.skeleton import fill

        return fill(skeleton, list(layers), emit)

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """One file."""
        from pmq.deploy.onnx_parts import set_metadata

        set_metadata(built, dict(metadata))
        return [write_bytes(path, built.SerializeToString())]

    def session(self, model: Any, threads: int = 1) -> Session:
        """An inference session on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise PmqError(f"onnxruntime cannot load {model if isinstance(model, Path) else 'the model'}: {error}") from None
        name = session.get_inputs()[0].name
        return lambda images: np.asarray(session.run(None, {name: images})[0])

    def stored(self, path: Path) -> dict[str, str]:
        """By operators, their attributes, and types of constants."""
        import onnx

        from pmq.deploy.onnx_parts import constants

        model = onnx.load(path)
        known, found = constants(model), {}
        cast = {n.output[0]: n for n in model.graph.node if n.op_type == "Cast"}
        for node in model.graph.node:
            layer, _, leaf = node.name.rpartition("/")
            if leaf != "product":
                continue
            if node.op_type == "MatMulIntegerToFloat":
                found[layer] = f"w{_bits(known[node.input[1]])} x {_bits(known[node.input[4]])}"
            elif node.op_type == "MatMulNBits":
                attributes = {a.name: a.i for a in node.attribute}
                found[layer] = f"w{attributes['bits']}-group{attributes['block_size']} x fp32"
            elif node.input[1] in cast:
                found[layer] = f"w{_bits(known[cast[node.input[1]].input[0]])}-half x fp32"
            else:
                found[layer] = f"wfp{_bits(known[node.input[1]])} x fp32"
        return found

    def metadata(self, path: Path) -> dict[str, str]:
        """The model's properties."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise PmqError(f"onnxruntime cannot load {str(path)!r}: {error}") from None
        return dict(session.get_modelmeta().custom_metadata_map)


def _bits(tensor: Any) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8)


def emit(layer: DeployLayer, x: str, y: str) -> Any:
    """A layer as onnxruntime's operators."""
    from pmq.deploy.onnx_parts import FLOAT32, PartBuilder, kernel, nibbles

    b = PartBuilder(layer)
    outputs, inputs = layer.shape
    rows_to = None if layer.patch is None else f"{layer.name}/output"
    to = rows_to or y
    if layer.grid is not None:
        assert layer.codes is not None and layer.scales is not None
        scale, zero = (
            b.constant("input.scale", np.array(layer.grid[0], np.float32)),
            b.constant("input.zero", np.array(layer.grid[1], np.uint8)),
        )
        x = b.node("QuantizeLinear", [x, scale, zero], "quantized")
        if layer.patch:
            x = b.patches(layer, x)
        weight = b.constant("weight", layer.codes.T.astype(np.int8))
        given = [x, weight, scale, b.constant("weight.scale", layer.scales[:, 0]), zero]
        if layer.bias is not None:
            given += ["", b.constant("bias", layer.bias)]
        b.node("MatMulIntegerToFloat", given, "product", to, CONTRIB)
    else:
        if layer.patch:
            x = b.patches(layer, x)
        if layer.codes is not None:
            assert layer.scales is not None and layer.weight.group_size is not None
            bits, group = layer.weight.bits, layer.weight.group_size
            codes = np.pad(layer.codes + 2 ** (bits - 1), ((0, 0), (0, -inputs % group)), constant_values=2 ** (bits - 1))
            blocks = codes.astype(np.uint8).reshape(outputs, -1, group)
            packed = b.constant("weight", nibbles(blocks) if bits == 4 else blocks)
            given = [x, packed, b.constant("weight.scale", layer.scales.reshape(-1))]
            given += [] if layer.bias is None else ["", "", b.constant("bias", layer.bias)]
            attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": group, "accuracy_level": EXACT}
            b.node("MatMulNBits", given, "product", to, CONTRIB, **attributes)
        else:
            half = layer.weight.quantizer == "half"
            weight = b.constant("weight", kernel(layer).astype(np.float16 if half else np.float32))
            weight = b.node("Cast", [weight], "widened", to=FLOAT32) if half else weight
            b.product(layer, x, weight, to)
    if layer.patch:
        b.map(to, y)
    return b.part
