"""Base class of targets with ONNX files: export, writing and reading of files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pmq.core.choice import FLOAT as FLOAT_CHOICE
from pmq.core.choice import Choice
from pmq.core.errors import PmqError
from pmq.core.files import quoted, write_bytes
from pmq.cost.latency import INT8, layer_key
from pmq.runtimes.base import Target
from pmq.runtimes.modes import BFLOAT16, FLOAT, HALF, W4, W8
from pmq.runtimes.onnx_file import read_onnx
from pmq.runtimes.session import LAYER_OUTPUT, OUTPUT, Probed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.operand import DeployOperand


#: quantizers of activations whose levels operators of ONNX compute, and their largest bit-widths: the simulation limits the
#: range of more logarithmic levels
OPERANDS = {"affine": 8, "codebook": 8, "relative": 8, "power": 8, "log": 6}


class OnnxTarget(Target):
    """Target with ONNX files; subclasses implement how a layer is written and how a model is run."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript")
    int8 = INT8
    #: operator that looks values up in a table fastest
    lookup: ClassVar[str] = "Gather"
    packed_space: ClassVar[str | None] = "runnable"
    operand_bytes: ClassVar[int] = 1_000
    #: whether inputs of layers may have grids that are found at run time, token by token
    by_token: ClassVar[bool] = False
    modes: ClassVar[tuple[str, ...]] = (INT8, W4, W8, HALF, FLOAT)

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Export an ONNX graph with placeholders for ``layers``."""
        from pmq.runtimes.skeleton import take_skeleton

        return take_skeleton(model, layers, image, dynamic_batch)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return an ONNX graph with the placeholder of one layer."""
        from pmq.runtimes.skeleton import single

        return single(layer, shape)

    def single_operand(self, operand: DeployOperand, shape: tuple[int, ...]) -> Any:
        """Return an ONNX graph with the placeholder of one operand."""
        from pmq.runtimes.skeleton import single_operand

        return single_operand(operand, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand] = ()) -> Any:
        """Insert layers and operands into an ONNX graph."""
        from pmq.runtimes.skeleton import fill

        return fill(skeleton, list(layers), list(operands), self.emit, self.emit_operand)

    def emit_operand(self, operand: DeployOperand, x: str, y: str) -> Any:
        """Return the :class:`pmq.runtimes.skeleton.Part` that quantizes an operand from tensor ``x`` to tensor ``y``."""
        from pmq.runtimes.onnx_builder import NodeBuilder
        from pmq.runtimes.onnx_quantizers import values

        b = NodeBuilder(operand.name, self.lookup)
        values(b, operand, x, y)
        return b.part

    def executes(self, choice: Choice) -> bool:
        """Return whether operators of ONNX compute the levels of an activation."""
        return choice.is_fp32 or choice.bits <= OPERANDS.get(choice.quantizer, 0)

    def check_layer(self, name: str, weight: Choice, source: Choice) -> None:
        """Raise PmqError unless there are kernels for both choices, or operators that compute their levels for FP32 kernels."""
        stored = weight.quantizer in ("affine", "palette") or layer_key(weight, FLOAT_CHOICE) in self.modes
        quantized = self.executes(source) or (self.by_token and source.quantizer == "dynamic")
        if not (stored and quantized):
            super().check_layer(name, weight, source)

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

    def probed(self, path: Path) -> Probed:
        """Return a file's model with the outputs of its layers as further outputs.

        Bytes of a second graph that follow a file are merged into its graph: protobuf's rule for fields that are repeated.
        """
        import onnx

        model, added = read_onnx(path), onnx.ModelProto()
        names = [name for node in model.graph.node for name in node.output if name.endswith(LAYER_OUTPUT)]
        ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
        added.graph.output.extend(ports)
        model.MergeFrom(added)
        return Probed(model, [OUTPUT, *names], added.SerializeToString())

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the properties of the model in a file."""
        return {prop.key: prop.value for prop in read_onnx(path).metadata_props}

    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's mode and each operand's label, determined from operators, attributes and constants."""
        from pmq.runtimes.onnx_quantizers import label

        model = read_onnx(path)
        known = {tensor.name: tensor for tensor in model.graph.initializer}
        makers = {node.output[0]: node for node in model.graph.node}
        modes = {}
        for node in model.graph.node:
            name, _, leaf = node.name.rpartition("/")
            if leaf in ("product", "operand"):
                try:
                    modes[name] = _stored(node, known, makers) if leaf == "product" else label(node.output[0], known, makers)
                except LookupError:
                    raise PmqError(
                        f"{name!r} of {quoted(path)} is not stored as pmq deploy writes it; deploy the model again"
                    ) from None
        return modes


def _stored(node: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the mode of a layer, determined from the node of its product."""
    from pmq.runtimes import onnx_dynamic
    from pmq.runtimes.onnx_quantizers import label

    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "MatMulNBits":
        return f"w{attributes['bits']}-group{attributes['block_size']} x fp32"
    weight = _weight_label(node.input[1], known, makers)
    # inputs in bfloat16 have no operators of their own: a runtime computes everything outside of integer layers with them
    source = onnx_dynamic.label(node.input[0], known, makers) or label(node.input[0], known, makers)
    return BFLOAT16 if weight == "16-bfloat16" else f"w{weight} x {source}"


def _weight_label(name: str, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the label of a weight's choice, and the size of its groups."""
    group, node = "", makers.get(name)
    if node is None:
        return {"FLOAT": "fp32"}.get(_kind(known[name]), str(_bits(known[name])))
    if node.op_type == "Cast" and _kind(known.get(node.input[0])) in ("FLOAT16", "BFLOAT16"):
        return "16-half" if _kind(known[node.input[0]]) == "FLOAT16" else "16-bfloat16"
    while node is not None and node.op_type in ("Reshape", "Mul", "Sub", "Cast", "DequantizeLinear"):
        sizes = {a.name: a.i for a in node.attribute}
        if "block_size" in sizes:
            group = f"-group{sizes['block_size']}"
        if node.op_type == "Mul":
            group = _group(node, known, makers)
        name, node = node.input[0], makers.get(node.input[0])
    if node is not None and node.op_type == "Gather" and len(getattr(known.get(node.input[0]), "dims", ())) == 1:
        return f"{int(known[node.input[0]].dims[0]).bit_length() - 1}-palette{group}"
    return f"{_bits(known[name]) if node is None else _packed_bits(node, known, makers)}{group}"


def _group(scaling: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> str:
    """Return the size of the groups that have a scale each, from the shape into which the weight was split before scaling."""
    import onnx

    while scaling.op_type != "Reshape":
        scaling = makers.get(scaling.input[0])
        if scaling is None or scaling.op_type == "Cast":
            return ""
    split = onnx.numpy_helper.to_array(known[scaling.input[1]])
    return "" if -1 not in split else f"-group{_length(scaling.input[0], known, makers) // int(-np.prod(split))}"


def _length(name: str, known: Mapping[str, Any], makers: Mapping[str, Any]) -> int:
    """Return the number of values of an integer weight, from the shape that it has or is given."""
    import onnx

    while name in makers:
        node = makers[name]
        if node.op_type == "Reshape":
            return int(np.prod(onnx.numpy_helper.to_array(known[node.input[1]])))
        name = node.input[1 if node.op_type == "Gather" else 0]  # of free levels, whose indices have the shape
    return int(np.prod(known[name].dims))


def _packed_bits(node: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> int:
    """Return the sum of the bits of a packed weight's digits, from the sizes of their tables."""
    bits = 0
    while node.op_type == "Add":
        bits += _digit_bits(makers.get(node.input[1]), known, makers)
        node = makers[node.input[0]]
    return bits + _digit_bits(node, known, makers)


def _digit_bits(node: Any, known: Mapping[str, Any], makers: Mapping[str, Any]) -> int:
    while node is not None and node.op_type in ("Reshape", "Slice"):
        node = makers[node.input[0]]
    return 0 if node is None else 8 // int(known[node.input[0]].dims[1])  # no node: the constant that makes it unsigned


def _kind(tensor: Any) -> str:
    import onnx

    return "" if tensor is None else str(onnx.TensorProto.DataType.Name(tensor.data_type))


def _bits(tensor: Any) -> int:
    import onnx

    if _kind(tensor) in ("INT4", "UINT4"):
        return 4
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8)
