"""ExecuTorch with XNNPACK for Android and iOS: 8- and 4-bit weights, inputs rounded a token at a time, in one file."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.core.files import read_bytes, write_bytes
from pmq.deploy.base import Session, Target, register
from pmq.deploy.modes import DYNAMIC4, DYNAMIC4_GROUPS, DYNAMIC8, FLOAT

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.deploy.layer import DeployLayer

#: methods of a program that give texts: ours of the model, and where its layers are
METADATA, LAYERS = "pmq_metadata", "pmq_layers"


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
        from pmq.deploy.pte import Skeleton

        return Skeleton(copy.deepcopy(model), image)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """A model of one layer."""
        from pmq.deploy.pte import single

        return single(layer, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer]) -> Any:
        """A lowered model."""
        from pmq.deploy.pte import build

        return build(skeleton, layers)

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """One file, the texts as methods beside ``forward``."""
        texts = {METADATA: json.dumps(dict(metadata)), LAYERS: json.dumps(built.layers)}
        return [write_bytes(path, built.program(texts))]

    def session(self, model: Any, threads: int = 1) -> Session:
        """A loaded program. Threads are those of the whole process: sessions that live together must agree on them."""
        import torch
        from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool

        if _threadpool_get_thread_count() != threads:  # before loading: a program keeps the threads it was loaded with
            _unsafe_reset_threadpool(threads)
        program = self._program(model)  # which must outlive its method
        method = program.load_method("forward")
        assert method is not None

        def run(images: Any, _program: Any = program) -> Any:
            with torch.no_grad():
                return np.array(method.execute([torch.from_numpy(np.ascontiguousarray(images))])[0])

        return run

    def stored(self, path: Path) -> dict[str, str]:
        """By the data of weights."""
        layers = self._text(path, LAYERS)
        from pmq.deploy.pte import read_layers

        return read_layers(read_bytes(path), layers)

    def metadata(self, path: Path) -> dict[str, str]:
        """What the method of its name gives."""
        return self._text(path, METADATA)

    def _text(self, path: Path, method: str) -> Any:
        program = self._program(path)
        if method not in program.method_names:
            return {}
        return json.loads(bytes(program.load_method(method).execute([])[0].tolist()))

    def _program(self, model: Any) -> Any:
        self.require(running=True)
        from executorch.runtime import Runtime

        data = read_bytes(model) if isinstance(model, Path) else model.program()
        try:
            return Runtime.get().load_program(data)
        except (RuntimeError, ValueError) as error:
            named = repr(str(model)) if isinstance(model, Path) else "the model"
            raise PmqError(f"ExecuTorch cannot load {named}: {one_line(error)}") from None
