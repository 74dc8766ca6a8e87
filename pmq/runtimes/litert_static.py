"""LiteRT models of integers alone, for NPUs: int8 or int16 for every tensor between operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pmq.core.errors import PmqError
from pmq.core.files import quoted
from pmq.runtimes.base import register
from pmq.runtimes.litert import LiteRT
from pmq.runtimes.whole_graph import WholeGraph

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.operand import DeployOperand


@register
class LiteRTStatic(WholeGraph, LiteRT):
    """Target with full-integer ``.tflite`` files, by the conventions of LiteRT's 8-bit and 16x8 quantization.

    The graph is exported as that of ``qdq``, and its operators are written as LiteRT's with the scales of the simulation.
    """

    name = "litert-static"
    packages = ("onnx", "onnxscript", "onnxruntime")
    int8 = "w8 x 8"
    symmetric: ClassVar[tuple[int, ...]] = (16,)
    quantizes_results: ClassVar[bool] = True

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Export an ONNX graph with placeholders for ``layers`` and operands."""
        from pmq.runtimes.skeleton import take_skeleton

        return take_skeleton(model, layers, image)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return an ONNX graph with the placeholders of one layer, of its input and of its result."""
        from pmq.runtimes.skeleton import single

        return single(layer, shape, quantized=True)

    def single_operand(self, operand: DeployOperand, shape: tuple[int, ...]) -> Any:
        """Return an ONNX graph with the placeholder of one operand."""
        from pmq.runtimes.skeleton import single_operand

        return single_operand(operand, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand] = ()) -> Any:
        """Write an ONNX graph with placeholders as a graph of LiteRT's operators; without any grid, in FP32."""
        from pmq.runtimes.static_graph import static_graph

        return static_graph(skeleton, layers, operands, self.operators)

    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's mode and each tensor's bits, read from the types of the file's tensors.

        Raises:
            PmqError: an operator reads or writes a tensor that is no integer.
        """
        from pmq.runtimes.static_read import read_bits

        model = self._read(path, lambda tflite, content: tflite.unpacked(content))
        try:
            return read_bits(model)
        except LookupError as error:
            raise PmqError(f"{error.args[0]} of {quoted(path)} is not quantized; deploy the model again") from None
