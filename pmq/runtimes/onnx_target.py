"""Base class of targets with ONNX files: export, writing and reading of files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pmq.core.errors import PmqError
from pmq.core.files import quoted, write_bytes
from pmq.runtimes.base import Target
from pmq.runtimes.modes import BFLOAT16, FLOAT, HALF, INT8, W4, W8
from pmq.runtimes.onnx_file import read_onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer


class OnnxTarget(Target):
    """Target with ONNX files; subclasses implement how a layer is written and how a model is run."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript")
    int8 = INT8
    modes: ClassVar[tuple[str, ...]] = (INT8, W4, W8, HALF, FLOAT)

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Export an ONNX graph with placeholders for ``layers``."""
        from pmq.runtimes.skeleton import take_skeleton

        return take_skeleton(model, layers, image, dynamic_batch)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return an ONNX graph with the placeholder of one layer."""
        from pmq.runtimes.skeleton import single

        return single(layer, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer]) -> Any:
        """Insert layers into an ONNX graph."""
        from pmq.runtimes.skeleton import fill

        return fill(skeleton, list(layers), self.emit)

    @abstractmethod
    def emit(self, layer: DeployLayer, x: str, y: str) -> Any:
        """Return the :class:`pmq.runtimes.skeleton.Part` that computes a layer from tensor ``x`` to tensor ``y``."""

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """Write one file that contains the texts in its properties."""
        import onnx

        onnx.helper.set_model_props(built, dict(metadata))
        return [write_bytes(path, built.SerializeToString())]

    def content(self, model: Any) -> bytes:
        """Return the bytes for a runtime, which is never passed a path because it would look for further files there."""
        return bytes((read_onnx(model) if isinstance(model, Path) else model).SerializeToString())

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the properties of the model in a file."""
        return {prop.key: prop.value for prop in read_onnx(path).metadata_props}

    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's mode, determined from operators, their attributes and types of constants."""
        model = read_onnx(path)
        known = {tensor.name: tensor for tensor in model.graph.initializer}
        makers = {node.output[0]: node for node in model.graph.node}
        modes = {}
        for node in model.graph.node:
            layer, _, leaf = node.name.rpartition("/")
            if leaf == "product":
                try:
                    modes[layer] = _stored(node, known, makers)
                except LookupError:
                    raise PmqError(
                        f"layer {layer!r} of {quoted(path)} is not stored as pmq deploy writes it; deploy the model again"
                    ) from None
        return modes


def _stored(node: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the mode of a layer, determined from the node of its product."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "MatMulIntegerToFloat":
        return f"w{_bits(known[node.input[1]])} x {_bits(known[node.input[4]])}"
    if node.op_type == "ConvInteger":
        return f"w{_bits(known[node.input[1]])} x {_bits(known[node.input[2]])}"
    if node.op_type == "MatMulNBits":
        return f"w{attributes['bits']}-group{attributes['block_size']} x fp32"
    maker = makers.get(node.input[1])
    if maker is None:
        return f"wfp{_bits(known[node.input[1]])} x fp32"
    if maker.op_type == "Cast":
        return HALF if _is(known[maker.input[0]], "FLOAT16") else BFLOAT16
    attributes = {a.name: a.i for a in maker.attribute}
    group = f"-group{attributes['block_size']}" if "block_size" in attributes else ""
    return f"w{_bits(known[maker.input[0]])}{group} x {_source_bits(node.input[0], known, makers)}"


def _source_bits(name: str, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the bits to which an input is quantized, looking through reshapes and transposes; ``fp32`` if to none."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Reshape", "Transpose"):
        node = makers.get(node.input[0])
    return str(_bits(known[node.input[2]])) if node is not None and node.op_type == "DequantizeLinear" else "fp32"


def _is(tensor: Any, kind: str) -> bool:
    import onnx

    return bool(tensor.data_type == getattr(onnx.TensorProto, kind))


def _bits(tensor: Any) -> int:
    import onnx

    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 4
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8)
