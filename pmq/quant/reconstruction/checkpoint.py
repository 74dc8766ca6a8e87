"""Checkpoints of learned stages, with which an interrupted run resumes at the next stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pmq.core.checkpoints import keep
from pmq.core.choice import Choice
from pmq.core.files import is_file, write_bytes
from pmq.core.tensors import TensorFile
from pmq.quant.quantizers import QUANTIZERS, Quantizer
from pmq.quant.weights import QuantizedWeight

#: raised where the same inputs are learned differently than before, so that checkpoints of before are not used
REVISION = 2
#: arguments of :func:`pmq.core.checkpoints.keep` after the file
RESUMABLE = "learned", "the same command resumes from there"


@dataclass(frozen=True)
class Learned:
    """Result of learning a stage: its weights and quantizers by component, and its other parameters in order."""

    weights: Mapping[str, QuantizedWeight]
    quantizers: Mapping[str, Quantizer]
    rest: Sequence[Tensor]

    def to_file(self) -> TensorFile:
        """Return the result as a file of tensors."""
        tensors = {f"{n}/codes": w.codes for n, w in self.weights.items()}
        for name, quantizer in [*((n, w.quantizer) for n, w in self.weights.items()), *self.quantizers.items()]:
            tensors |= {f"{name}/{k}": v for k, v in quantizer.parameters.items()}
        tensors |= {f"rest/{i}": p.detach() for i, p in enumerate(self.rest)}
        return TensorFile.of({n: t.cpu().contiguous().numpy() for n, t in tensors.items()})

    @classmethod
    def from_file(cls, file: TensorFile, choices: Mapping[str, Choice], shapes: Mapping[str, torch.Size]) -> Learned:
        """Read the result from a file of tensors; ``shapes`` are those of the weights, by component."""
        tensors = {n: torch.from_numpy(a) for n, a in file.arrays().items()}
        weights, quantizers = {}, {}
        for name in dict.fromkeys(n.split("/")[0] for n in tensors if not n.startswith("rest/")):
            parameters = {k: tensors[f"{name}/{k}"] for k in (n.split("/")[1] for n in tensors if n.startswith(f"{name}/"))}
            codes = parameters.pop("codes", None)
            quantizer = QUANTIZERS[choices[name].quantizer](parameters, choices[name].bits)
            if codes is None:
                quantizers[name] = quantizer
            else:
                weights[name] = QuantizedWeight(codes, quantizer, shapes[name])
        return cls(weights, quantizers, [tensors[f"rest/{i}"] for i in range(sum(n.startswith("rest/") for n in tensors))])


class Checkpoints:
    """Checkpoints of learned stages in a folder; without a folder, none are stored."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def _path(self, stage: int) -> Path | None:
        return None if self._folder is None else self._folder / f"stage-{stage:02d}.safetensors"

    def load(self, stage: int) -> TensorFile | None:
        """Return the checkpoint of a stage, or None if there is none."""
        path = self._path(stage)
        if path is None or not is_file(path):
            return None
        keep(path, *RESUMABLE)
        return TensorFile.read(path)

    def save(self, stage: int, file: TensorFile) -> None:
        """Write the checkpoint of a stage."""
        path = self._path(stage)
        if path is not None:
            keep(path, *RESUMABLE)
            write_bytes(path, file.data)
