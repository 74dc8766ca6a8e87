"""What is told of a model by whoever uses it: how its images are prepared, and which of its outputs count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.models.describe import class_names, input_size
from pmq.models.torchvision_ops import ensure_torchvision

#: what else a data config says, and timm's defaults
_OTHERS = {"interpolation": "bicubic", "crop_pct": 0.875}


def prepare_as(model: nn.Module, data_config: Mapping[str, Any]) -> None:
    """Let a model tell, in place, that its images are prepared as :func:`prepared_config` says.

    Raises:
        PmqError: the data config is none.
    """
    told = getattr(model, "pretrained_cfg", None) or {}
    found = prepared_config(told, data_config, input_size(model)[0])
    if any(value is not None for name, value in data_config.items() if name != "input_size"):
        described: Any = model
        described.pretrained_cfg = {**told, **found}


def prepared_config(told: Mapping[str, Any], asked: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Give what a model tells of how its images are prepared, with what is asked for in place of that.

    ``asked`` may have ``mean`` and ``std`` of each channel, or one for all, ``interpolation``, ``crop_pct`` and
    ``crop_mode``, as timm has them; nothing stands for what is not asked. Where ``mean`` and ``std`` come from there, a line
    tells what else is taken.

    Raises:
        PmqError: it has something else, not as many figures as channels, a deviation that is not positive, or what timm lacks.
    """
    unknown = [name for name in asked if name not in ("mean", "std", *_OTHERS, "crop_mode", "input_size")]
    if unknown:
        raise PmqError(f"data config: {unknown[0]!r} is not one of mean, std, interpolation, crop_pct, crop_mode")
    found = {name: value for name, value in asked.items() if value is not None and name != "input_size"}
    for name in ("mean", "std"):
        values = found.get(name)
        if values is None:
            continue
        values = tuple(values) if isinstance(values, Sequence) else (values,)
        if len(values) not in (1, channels):
            raise PmqError(f"{name} has {len(values)} figures, the model's images have {channels} channels; give one for each")
        if name == "std" and min(values) <= 0:
            raise PmqError(f"std {min(values)} is not positive: images are divided by it")
        found[name] = values * (channels if len(values) == 1 else 1)
    if "interpolation" in found:
        _known(found["interpolation"])
    whole = {**told, **found}
    if not ("mean" in told and "std" in told) and "mean" in whole and "std" in whole:
        missing = {name: value for name, value in _OTHERS.items() if name not in whole}
        if missing:
            message(f"of how images are prepared is not said, and taken: {', '.join(f'{n} {v}' for n, v in missing.items())}")
        whole |= missing
    return whole


def _known(interpolation: str) -> None:
    ensure_torchvision()
    from timm.data.transforms import str_to_interp_mode

    try:
        str_to_interp_mode(interpolation)
    except KeyError:
        known = "bilinear, bicubic, lanczos, nearest, box, hamming"
        raise PmqError(f"interpolation {interpolation!r} is not one of {known}") from None


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
