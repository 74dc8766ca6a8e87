"""Settings that a user adds to a model: preprocessing of its images, names of its classes, and choice of its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.models.describe import class_names, input_size
from pmq.models.torchvision_ops import ensure_torchvision

#: further keys of a data config, with timm's defaults
_DEFAULTS = {"interpolation": "bicubic", "crop_pct": 0.875}


def prepare_as(model: nn.Module, data_config: Mapping[str, Any]) -> None:
    """Set a model's preprocessing to that of :func:`prepared_config`, in place.

    Raises:
        PmqError: the data config is invalid.
    """
    declared = getattr(model, "pretrained_cfg", None) or {}
    config = prepared_config(declared, data_config, input_size(model)[0])
    if any(value is not None for name, value in data_config.items() if name != "input_size"):
        described: Any = model
        described.pretrained_cfg = {**declared, **config}


def prepared_config(declared: Mapping[str, Any], requested: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return the preprocessing that a model declares, overridden by the requested settings.

    ``requested`` may contain ``mean`` and ``std``, one number per channel or one for all, ``interpolation``, ``crop_pct`` and
    ``crop_mode``, with timm's meaning; entries of None are ignored. Where ``mean`` and ``std`` are new, the remaining settings
    get timm's defaults, which a message reports.

    Raises:
        PmqError: a key is unknown, the number of values is not that of channels, a deviation is not positive, or timm has no
            such interpolation.
    """
    unknown = [name for name in requested if name not in ("mean", "std", *_DEFAULTS, "crop_mode", "input_size")]
    if unknown:
        raise PmqError(f"data config: {unknown[0]!r} is not one of mean, std, interpolation, crop_pct, crop_mode")
    config = {name: value for name, value in requested.items() if value is not None and name != "input_size"}
    for name in ("mean", "std"):
        values = config.get(name)
        if values is None:
            continue
        values = tuple(values) if isinstance(values, Sequence) else (values,)
        if len(values) not in (1, channels):
            raise PmqError(
                f"{name} has {len(values)} values, but the model's images have {channels} channels; pass one per channel"
            )
        if name == "std" and min(values) <= 0:
            raise PmqError(f"std {min(values)} is not positive; images are divided by it")
        config[name] = values * (channels if len(values) == 1 else 1)
    if "interpolation" in config:
        _check_interpolation(config["interpolation"])
    merged = {**declared, **config}
    if not ("mean" in declared and "std" in declared) and "mean" in merged and "std" in merged:
        missing = {name: value for name, value in _DEFAULTS.items() if name not in merged}
        if missing:
            message(f"preprocessing is not fully specified; defaults: {', '.join(f'{n} {v}' for n, v in missing.items())}")
        merged |= missing
    return merged


def _check_interpolation(interpolation: str) -> None:
    ensure_torchvision()
    from timm.data.transforms import str_to_interp_mode

    try:
        str_to_interp_mode(interpolation)
    except KeyError:
        known = "bilinear, bicubic, lanczos, nearest, box, hamming"
        raise PmqError(f"interpolation {interpolation!r} is not one of {known}") from None


def name_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Set the names of a model's classes, in place, unless it has names already."""
    if names and not class_names(model):
        described: Any = model
        described.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), "label_names": list(names)}


def with_output(model: nn.Module, *names: str) -> nn.Module:
    """Choose which outputs of a model pmq uses, in place, by name, by index, or by a dotted path of them.

    Several outputs are treated as features: their errors add up, each relative to the output's own norm.

    Returns:
        The model.

    Raises:
        PmqError: no name is passed.
    """
    if not names or not all(names):
        raise PmqError("no output is named; pass one, such as last_hidden_state")
    model.outputs_taken = tuple(names)  # type: ignore[assignment]
    return model
