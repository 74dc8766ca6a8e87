"""ExecuTorch with XNNPACK for Android and iOS: 8- and 4-bit weights, inputs quantized per token, in one file."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_bytes, write_bytes
from pmq.runtimes.base import Target, register
from pmq.runtimes.labels import read_texts
from pmq.runtimes.modes import DYNAMIC4, DYNAMIC4_GROUPS, DYNAMIC8, FLOAT
from pmq.runtimes.session import FP32, MOST, NATIVE, Port, Session, named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.operand import DeployOperand

#: methods of a program: the model's, and those that return texts: pmq's metadata, and where the layers are stored
FORWARD, METADATA, LAYERS = "forward", "pmq_metadata", "pmq_layers"
#: ExecuTorch's code of the type FP32
FLOAT_CODE = 6


@register
class ExecuTorch(Target):
    """Target that writes layers as quantized operators for ExecuTorch's XNNPACK backend, which also runs what is around them.

    Lowering takes half a minute for a small model, so layers are profiled one at a time rather than inside the model.
    """

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    runtime = "executorch"
    packages = ("torchao",)
    int8 = DYNAMIC8
    modes = (DYNAMIC8, DYNAMIC4, DYNAMIC4_GROUPS, FLOAT)
    open_batch = False
    slow = True
    graph_bytes = 256_000  # XNNPACK stores a separate graph for each part that it executes

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Copy the model, whose layers are replaced before it is exported."""
        from pmq.runtimes.pte import Skeleton

        return Skeleton(copy.deepcopy(model), image)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return a model that consists of one layer."""
        from pmq.runtimes.pte import single

        return single(layer, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand] = ()) -> Any:
        """Replace the layers and lower the model."""
        from pmq.runtimes.pte import build

        return build(skeleton, layers)

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """Write one file that contains the texts as methods next to ``forward``."""
        texts = {METADATA: json.dumps(dict(metadata)), LAYERS: json.dumps(built.layers)}
        return [write_bytes(path, built.program(texts))]

    def session(self, model: Any, threads: int = 1) -> Session:
        """Load a program; the number of threads applies to the whole process, so concurrent sessions must use the same."""
        self.require(running=True)
        import torch
        from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool

        if _threadpool_get_thread_count() != threads:  # before loading, because a program keeps its thread pool
            _unsafe_reset_threadpool(threads)
        program = self._program(model)  # must outlive its method
        try:
            signature = program.metadata(FORWARD)
            inputs = [_port(signature.input_tensor_meta(i)) for i in range(signature.num_inputs())]
            outputs = [_port(signature.output_tensor_meta(i)) for i in range(signature.num_outputs())]
            method = program.load_method(FORWARD)
        except NATIVE as error:
            raise PmqError(f"ExecuTorch cannot load {named(model)}: {one_line(error)}") from None

        def run(images: Any, _program: Any = program) -> Any:
            with torch.no_grad():
                return [np.array(method.execute([torch.from_numpy(np.ascontiguousarray(images))])[0])]

        return Session("ExecuTorch", run, inputs, outputs)

    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's mode, determined from the data of its weight."""
        layers = json.loads(self._text(path, LAYERS) or "{}")
        from pmq.runtimes.pte import read_layers

        return read_layers(read_bytes(path), layers)

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the texts that the method ``pmq_metadata`` contains."""
        return read_texts(self._text(path, METADATA), path)

    def _text(self, path: Path, method: str) -> str:
        program = self._program(path)
        if method not in program.method_names:
            return ""
        try:
            return bytes(program.load_method(method).execute([])[0].tolist()).decode()
        except (*NATIVE, AttributeError, TypeError) as error:  # the method may return anything but bytes
            raise PmqError(f"ExecuTorch cannot read the texts of {quoted(path)}: {one_line(error)}") from None

    def _program(self, model: Any) -> Any:
        data = read_bytes(model, "model file", "; pmq deploy writes one", MOST) if isinstance(model, Path) else model.program()
        self.require(running=True)
        from executorch.runtime import Runtime

        try:
            program = Runtime.get().load_program(data)
        except NATIVE as error:
            raise PmqError(f"ExecuTorch cannot load {named(model)}: {one_line(error)}") from None
        if FORWARD not in program.method_names:
            raise PmqError(f"{named(model)} has no method {FORWARD!r} for ExecuTorch to run; deploy the model again")
        return program


def _port(info: Any) -> Port:
    return Port(FP32 if info.dtype() == FLOAT_CODE else f"type {info.dtype()}", tuple(int(side) for side in info.sizes()))
