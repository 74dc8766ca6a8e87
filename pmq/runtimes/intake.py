"""Input format of a file: prepared images or 8-bit pixel values, with channels first or last."""

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
    """Format of a file's input.

    Attributes:
        values: ``float`` for prepared images, as the model takes them; ``uint8`` for pixel values from 0 to 255, which the file
            prepares.
        layout: ``nchw`` or ``nhwc``.
        mean, std: mean and standard deviation per channel for the normalization of pixel values scaled to 0 to 1.
    """

    values: str = "float"
    layout: str = "nchw"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: str, layout: str, data_config: Mapping[str, Any]) -> Intake:
        """Return the input format with these values and layout.

        Raises:
            PmqError: a name is unknown, or the data config has no mean or std although the file has to prepare its images.
        """
        for name, value, known in (("input", values, VALUES), ("layout", layout, LAYOUTS)):
            if value not in known:
                raise PmqError(f"{name} {value!r} is not one of {', '.join(known)}")
        if values == "uint8" and ("mean" not in data_config or "std" not in data_config):
            raise PmqError(
                "the file is to prepare pixel values, and the model does not state how; "
                "pass `mean` and `std` (keys of data_config in Python)"
            )
        mean, std = (tuple(float(v) for v in data_config.get(key, ())) for key in ("mean", "std"))
        return cls(values, layout, mean, std)

    @property
    def plain(self) -> bool:
        """Whether the file takes images exactly as the model does."""
        return self == Intake(mean=self.mean, std=self.std)

    def representable(self, images: Tensor) -> Tensor:
        """Return prepared images ``(N, C, H, W)`` rounded to what the input format can represent."""
        if self.values == "float":
            return images
        scale, shift = _affine(self.mean, self.std)
        return self._raw(images).float() * scale + shift

    def _raw(self, images: Tensor) -> Tensor:
        scale, shift = _affine(self.mean, self.std)
        return ((images - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def fed(self, images: Tensor) -> NDArray[Any]:
        """Convert prepared images ``(N, C, H, W)`` to the file's input format."""
        array = images.numpy() if self.values == "float" else self._raw(images).numpy()
        return array if self.layout == "nchw" else np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def entered(self, model: CapturedModel) -> CapturedModel:
        """Return a copy of ``model`` that takes images in this format; ``model`` itself if it already does."""
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
    """Preparation of a file's input: ``(B, H, W, C)`` or ``(B, C, H, W)`` to normalized ``(B, C, H, W)``."""

    def __init__(self, raw: bool, last: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.raw, self.last = raw, last
        for name, value in zip(("scale", "shift"), _affine(mean, std) if raw else (None, None), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Prepare images."""
        x = x.permute(0, 3, 1, 2) if self.last else x
        return x.float() * self.get_buffer("scale") + self.get_buffer("shift") if self.raw else x


def _affine(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, each ``(1, C, 1, 1)``, that normalize values from 0 to 255."""
    center, deviation = (torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1) for values in (mean, std))
    return (1 / (255 * deviation)).float(), (-center / deviation).float()
