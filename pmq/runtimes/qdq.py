"""ONNX files of integers alone, for NPUs: every tensor between operators has a fixed grid of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pmq.core.choice import Assignment, Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.files import quoted
from pmq.core.operator_widths import OperatorWidths
from pmq.core.paths import spaces_folder
from pmq.runtimes.base import register
from pmq.runtimes.onnx_file import read_onnx
from pmq.runtimes.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.operand import DeployOperand


@register
class Qdq(OnnxRuntime):
    """Target in QuantizeLinear/DequantizeLinear form, by the conventions of onnxruntime's QNN execution provider.

    Files are proved with onnxruntime's kernels for CPUs, which compute the same; they are not fast there.
    """

    name = "qdq"
    whole = True
    open_batch = False
    packed_space = None
    modes = ("w8 x 8", "w4 x 8", "w8 x 16", "w4 x 16")
    #: bytes for each operator: its nodes, and the names of its tensors
    graph_bytes: ClassVar[int] = 400_000

    @cached_property
    def operators(self) -> OperatorWidths:
        """The widths that operators take, from the search space of the target's name."""
        return OperatorWidths.read(spaces_folder() / f"{self.name}.yaml")

    def check(self, assignment: Assignment, inventory: Inventory) -> None:
        """Raise PmqError unless every component has a grid that the target has, and every operator takes its operands."""
        if all(choice.is_fp32 for choice in assignment.values()):
            return
        if not inventory.whole:
            raise PmqError(
                f"target {self.name!r} needs bits for every tensor between operators; search with `target={self.name}`"
            )
        for component in inventory:
            choice = assignment[component.name]
            weight = component.role == "weight"
            bits, granularity = ((4, 8), "channel") if weight else ((8, 16), "tensor")
            if (choice.bits, choice.quantizer, choice.granularity) not in [(b, "affine", granularity) for b in bits]:
                raise PmqError(
                    f"target {self.name!r} cannot run {component.name!r} at {choice.label} bits per {choice.granularity}; "
                    f"it takes {bits[0]} or {bits[1]} bits per {granularity}; search with `target={self.name}`"
                )
            if weight and not choice.symmetric:
                raise PmqError(f"target {self.name!r} cannot run {component.name!r}, whose grid is not symmetric")
        reason = self.operators.why_not_taken(assignment, inventory)
        if reason:
            raise PmqError(f"target {self.name!r} cannot run this allocation: {reason}; search with `target={self.name}`")

    def executes(self, choice: Choice) -> bool:
        """Return whether a tensor can have this choice."""
        return choice.quantizer == "affine" and choice.bits in (8, 16)

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
