"""Descriptions of models: name, classes, and the images that a model was built for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError
from pmq.core.validation import shown
from pmq.models.output_selection import FAILURES
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.models.weights import weights_sha256


def model_info(model: nn.Module, image: Sequence[int] | None = None) -> ModelInfo:
    """Describe a module: name, classes, hash of the weights, and preprocessing.

    A pruned model has the hash of the weights it was pruned from. ``image`` is the shape ``(C, H, W)`` of the images the model
    will see, where that is known.
    """
    return ModelInfo(
        name=model_name(model),
        num_classes=int(getattr(model, "num_classes", 0) or 0),
        weights_sha256=getattr(model, "pruned_from", None) or weights_sha256(model),
        data_config=model_data_config(model, image),
    )


def model_name(model: nn.Module) -> str:
    """Return timm's ``arch.tag`` of a model, or the name of its class."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name, tag = config.get("architecture") or type(model).__name__, config.get("tag")
    return f"{name}.{tag}" if tag else name


def model_label(model: nn.Module) -> str:
    """Return the key of a model's latency tables: its name, with digests of its arguments and its pruning plan."""
    name, plan = model_name(model), getattr(model, "pruning_plan", None)
    for suffix in (getattr(model, "made_with", ""), plan and f"pruned-{plan.digest}"):
        name += f"{'-' if '.' in name else '.'}{suffix}" if suffix else ""
    return name


def class_names(model: nn.Module) -> list[str]:
    """Return the names of a model's classes, or an empty list where they are unknown.

    They are those of the model's own config, or ImageNet-1k's for a model with 1000 classes. ImageNet's names are shortened to
    the first synonym, unless two classes share it.
    """
    labels = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if labels and len(labels) == getattr(model, "num_classes", 0):
        return list(labels)
    if getattr(model, "num_classes", 0) != 1000:
        return []
    ensure_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(i) for i in range(1000)]
    first = [name.split(",")[0] for name in names]
    return [short if first.count(short) == 1 else name for short, name in zip(first, names, strict=True)]


def input_size(model: nn.Module) -> list[int]:
    """Return channels, height and width of the images that a model was built for, as far as it states them."""
    return list(model_data_config(model)["input_size"])


def model_data_config(model: nn.Module, image: Sequence[int] | None = None) -> dict[str, Any]:
    """Return timm's description of a model's preprocessing, with the size of the images the model was built for.

    A model that does not declare ``mean`` and ``std`` gets only the ``input_size``. ``image`` is the shape ``(C, H, W)`` of the
    images the model will see, where that is known.

    Raises:
        PmqError: the model's ``mean`` or ``std`` are not numbers.
    """
    ensure_torchvision()
    from timm.data import resolve_model_data_config

    config = {k: list(v) if isinstance(v, tuple) else v for k, v in resolve_model_data_config(model).items()}
    channels, *size = config["input_size"]
    size = [*(_size(model) or size)]
    built = [*image] if image is not None else [_channels(model, channels, size) or channels, *size]
    if not declares_normalization(model):
        return {"input_size": built}
    for key in ("mean", "std"):
        config[key] = _channel_values(key, config[key])
        if len(config[key]) != built[0]:
            config[key] = [sum(config[key]) / len(config[key])] * built[0]
    return config | {"input_size": built}


def _channel_values(key: str, declared: Any) -> list[float]:
    """Return the values that a model declares for each channel, or for all channels at once, as a list.

    Raises:
        PmqError: they are not numbers.
    """
    values = declared if isinstance(declared, list) else [declared]
    if not values or not all(isinstance(value, int | float) for value in values):
        raise PmqError(f"the model's own config has {key} {shown(declared)}; it must be a number per channel of the images")
    return values


def declares_normalization(model: nn.Module) -> bool:
    """Return whether a model's config declares the ``mean`` and ``std`` of its images."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return "mean" in config and "std" in config


def _size(model: nn.Module) -> tuple[int, int] | None:
    """Return the image size of the first module that states one, usually the patch embedding; None if none does."""
    for module in model.modules():
        for name in ("img_size", "image_size"):
            size = getattr(module, name, None)
            size = (size, size) if isinstance(size, int) else size
            if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size):
                return size[0], size[1]
    return None


class _Reached(Exception):
    """Raised at the first layer of a forward pass, to stop it."""


def _channels(model: nn.Module, channels: int, size: Sequence[int]) -> int | None:
    """Return the input channels of the first layer, if it is a convolution over the image or its patches; else None."""
    in_channels: list[int] = []

    def stop(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d) and args and args[0].shape[1] == channels:
            in_channels.append(layer.in_channels)
        raise _Reached

    image = torch.zeros(1, channels, *size)
    image = image.to(next(model.parameters(), image))
    hooks = [m.register_forward_pre_hook(stop) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with suppress(_Reached, *FAILURES), torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return in_channels[0] if in_channels else None
