"""What is told of a model by whoever uses it: how its images are prepared, and which of its outputs count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pmq.core.errors import PmqError
from pmq.models.describe import class_names, input_size
from pmq.models.torchvision_ops import ensure_torchvision


def prepare_as(
    model: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
) -> None:
    """Let a model tell, in place, that its images are prepared so; what is not given stays as it is.

    Raises:
        PmqError: there are not as many figures as channels, a deviation is not positive, or there is no such interpolation.
    """
    channels = input_size(model)[0]
    found: dict[str, Any] = {}
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) not in (1, channels):
            raise PmqError(f"--{name} has {len(values)} figures, the model's images have {channels} channels; give one for each")
        if name == "std" and min(values) <= 0:
            raise PmqError(f"--std {min(values)} is not positive: images are divided by it")
        found[name] = tuple(values) * (channels if len(values) == 1 else 1)
    if interpolation is not None:
        found["interpolation"] = _known(interpolation)
    if found:
        described: Any = model
        described.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **found}


def _known(interpolation: str) -> str:
    ensure_torchvision()
    from timm.data.transforms import str_to_interp_mode

    try:
        str_to_interp_mode(interpolation)
    except KeyError:
        known = "bilinear, bicubic, lanczos, nearest, box, hamming"
        raise PmqError(f"interpolation {interpolation!r} is not one of {known}") from None
    return interpolation


def name_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Let a model that does not tell what its classes are called, in place, call them so."""
    if names and not class_names(model):
        described: Any = model
        described.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), "label_names": list(names)}


def with_output(model: nn.Module, *names: str) -> nn.Module:
    """Let a model tell, in place, which of its outputs count: by name, by number, or by several of them with dots.

    Errors of several add up, each beside its own size; they are features, whatever they mean.

    Raises:
        PmqError: no name is given.
    """
    if not names or not all(names):
        raise PmqError("no output is named; give one, such as last_hidden_state")
    model.outputs_taken = tuple(names)  # type: ignore[assignment]
    return model
