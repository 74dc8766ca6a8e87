"""ONNX files of integers alone, for NPUs: every tensor between operators has a fixed grid of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmq.core.errors import PmqError
from pmq.core.files import quoted
from pmq.runtimes.base import register
from pmq.runtimes.onnx_file import read_onnx
from pmq.runtimes.onnxruntime import OnnxRuntime
from pmq.runtimes.whole_graph import WholeGraph

if TYPE_CHECKING:
    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.operand import DeployOperand


@register
class Qdq(WholeGraph, OnnxRuntime):
    """Target in QuantizeLinear/DequantizeLinear form, by the conventions of onnxruntime's QNN execution provider.

    Files are proved with onnxruntime's kernels for CPUs, which compute the same; they are not fast there.
    """

    name = "qdq"
    takes_pixels = False

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return an ONNX graph with the placeholder of one layer, and of its quantized input."""
        from pmq.runtimes.skeleton import single

        return single(layer, shape, quantized=True)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand] = ()) -> Any:
        """Insert layers and grids into an ONNX graph; without any grid, the layers in FP32."""
        from pmq.runtimes.qdq_graph import integer_graph

        if not operands and all(layer.weight.is_fp32 for layer in layers):
            return super().build(skeleton, layers)
        return integer_graph(skeleton, layers, operands, self.operators)

    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's mode and each tensor's bits, read from the types of the file's integers.

        Raises:
            PmqError: a tensor between operators is not quantized.
        """
        from pmq.runtimes.qdq_read import read_bits

        model = read_onnx(path)
        try:
            return read_bits(model)
        except LookupError as error:
            raise PmqError(f"{error.args[0]} of {quoted(path)} is not quantized; deploy the model again") from None
