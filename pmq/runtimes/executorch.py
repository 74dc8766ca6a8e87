"""ExecuTorch with XNNPACK for Android and iOS: 8- and 4-bit weights, inputs rounded a token at a time, in one file."""

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

#: methods of a program: the model's own, and those that give texts, ours of the model and where its layers are
FORWARD, METADATA, LAYERS = "forward", "pmq_metadata", "pmq_layers"
#: what it calls FP32
FLOAT_CODE = 6


@register
class ExecuTorch(Target):
    """Layers as quantized operators that ExecuTorch's XNNPACK backend takes over with all around them.

    Lowering takes half a minute for a small model, so layers are profiled alone rather than inside it.
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
    graph_bytes = 256_000  # a graph of its own for each part that XNNPACK takes over

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """The model itself, whose layers are replaced before it is exported."""
        from pmq.runtimes.pte import Skeleton

        return Skeleton(copy.deepcopy(model), image)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """A model of one layer."""
        from pmq.runtimes.pte import single

        return single(layer, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer]) -> Any:
        """A lowered model."""
        from pmq.runtimes.pte import build

        return build(skeleton, layers)

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """One file, the texts as methods beside ``forward``."""
        texts = {METADATA: json.dumps(dict(metadata)), LAYERS: json.dumps(built.layers)}
        return [write_bytes(path, built.program(texts))]

    def session(self, model: Any, threads: int = 1) -> Session:
        """A loaded program. Threads are those of the whole process: sessions that live together must agree on them."""
        self.require(running=True)
        import torch
        from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool

        if _threadpool_get_thread_count() != threads:  # before loading: a program keeps the threads it was loaded with
            _unsafe_reset_threadpool(threads)
        program = self._program(model)  # which must outlive its method
        try:
            told = program.metadata(FORWARD)
            inputs = [_port(told.input_tensor_meta(i)) for i in range(told.num_inputs())]
            outputs = [_port(told.output_tensor_meta(i)) for i in range(told.num_outputs())]
            method = program.load_method(FORWARD)
        except NATIVE as error:
            raise PmqError(f"ExecuTorch cannot load {named(model)}: {one_line(error)}") from None

        def run(images: Any, _program: Any = program) -> Any:
            with torch.no_grad():
                return np.array(method.execute([torch.from_numpy(np.ascontiguousarray(images))])[0])

        return Session("ExecuTorch", run, inputs, outputs)

    def stored(self, path: Path) -> dict[str, str]:
        """By the data of weights."""
        layers = json.loads(self._text(path, LAYERS) or "{}")
        from pmq.runtimes.pte import read_layers

        return read_layers(read_bytes(path), layers)

    def metadata(self, path: Path) -> dict[str, str]:
        """What the method of its name gives."""
        return read_texts(self._text(path, METADATA), path)

    def _text(self, path: Path, method: str) -> str:
        program = self._program(path)
        if method not in program.method_names:
            return ""
        try:
            return bytes(program.load_method(method).execute([])[0].tolist()).decode()
        except (*NATIVE, AttributeError, TypeError) as error:  # or it gives anything but bytes
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
            raise PmqError(f"ExecuTorch finds nothing to compute in {named(model)}; deploy it anew")
        return program


def _port(of: Any) -> Port:
    return Port(FP32 if of.dtype() == FLOAT_CODE else f"type {of.dtype()}", tuple(int(side) for side in of.sizes()))
