"""How a file takes its images: prepared, or as the 8-bit values of pictures; channels before the sides or behind them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.graph.model import CapturedModel, Program
from pmq.graph.nodes import copied

VALUES, LAYOUTS = ("float", "uint8"), ("nchw", "nhwc")


@dataclass(frozen=True)
class Intake:
    """What the input of a file is.

    Attributes:
        values: ``float``: prepared, as the model takes them; ``uint8``: of pictures, from 0 to 255, which the file prepares.
        layout: ``nchw`` or ``nhwc``.
        mean, std: by which values are prepared, of each channel, where those of pictures are from 0 to 1.
    """

    values: str = "float"
    layout: str = "nchw"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: str, layout: str, data_config: Mapping[str, Any]) -> Intake:
        """Choose one.

        Raises:
            PmqError: there is no such, or the data config does not say how values are prepared.
        """
        for name, value, known in (("input", values, VALUES), ("layout", layout, LAYOUTS)):
            if value not in known:
                raise PmqError(f"{name} {value!r} is not one of {', '.join(known)}")
        if values == "uint8" and ("mean" not in data_config or "std" not in data_config):
            raise PmqError(
                "the file is to prepare the values of pictures, and the model does not say how; "
                "pass data_config={'mean': ..., 'std': ...}, on the command line --mean and --std"
            )
        mean, std = (tuple(float(v) for v in data_config.get(key, ())) for key in ("mean", "std"))
        return cls(values, layout, mean, std)

    @property
    def plain(self) -> bool:
        """Whether images are taken as the model takes them."""
        return self == Intake(mean=self.mean, std=self.std)

    def representable(self, images: Tensor) -> Tensor:
        """Prepared images ``(N, C, H, W)`` as they are after they were 8-bit values of pictures."""
        if self.values == "float":
            return images
        scale, shift = _affine(self.mean, self.std)
        return self._raw(images).float() * scale + shift

    def _raw(self, images: Tensor) -> Tensor:
        scale, shift = _affine(self.mean, self.std)
        return ((images - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def fed(self, images: Tensor) -> NDArray[Any]:
        """What the file is given for prepared images ``(N, C, H, W)``."""
        array = images.numpy() if self.values == "float" else self._raw(images).numpy()
        return array if self.layout == "nchw" else np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def entered(self, model: CapturedModel) -> CapturedModel:
        """A copy of ``model`` that takes images so; itself, where that is as it does."""
        if self.plain:
            return model
        model = copy.deepcopy(model)
        graph = copied(model.program.graph)
        source = next(node for node in graph.nodes if node.op == "placeholder")
        model.hold("intake", _Prepare(self.values == "uint8", self.layout == "nhwc", self.mean, self.std))
        with graph.inserting_after(source):
            new = graph.call_module("intake", (source,))
        new.meta = dict(source.meta)
        source.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        model.program = Program(graph)
        return model


class _Prepare(nn.Module):
    """Prepares what a file is given: ``(B, H, W, C)`` or ``(B, C, H, W)`` to ``(B, C, H, W)``."""

    def __init__(self, raw: bool, last: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.raw, self.last = raw, last
        for name, value in zip(("scale", "shift"), _affine(mean, std) if raw else (None, None), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Prepare."""
        x = x.permute(0, 3, 1, 2) if self.last else x
        return x.float() * self.get_buffer("scale") + self.get_buffer("shift") if self.raw else x


def _affine(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """What values from 0 to 255 are multiplied by, and what is added: ``(1, C, 1, 1)``."""
    of, by = (torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1) for values in (mean, std))
    return (1 / (255 * by)).float(), (-of / by).float()
