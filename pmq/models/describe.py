"""What is known of a model: its name and classes, and the images that it was built for."""

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
    """Describe any module: its name, classes, weights and preprocessing; a pruned one as what it was before.

    ``image`` is the shape ``(C, H, W)`` of the images it will see, where that is known.
    """
    return ModelInfo(
        name=model_name(model),
        num_classes=int(getattr(model, "num_classes", 0) or 0),
        weights_sha256=getattr(model, "pruned_from", None) or weights_sha256(model),
        data_config=model_data_config(model, image),
    )


def model_name(model: nn.Module) -> str:
    """Tell timm's ``arch.tag`` of a model, or the name of its class."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name, tag = config.get("architecture") or type(model).__name__, config.get("tag")
    return f"{name}.{tag}" if tag else name


def model_label(model: nn.Module) -> str:
    """Tell a model's name, and if it is pruned, how: what latencies are kept by."""
    name, plan = model_name(model), getattr(model, "pruning_plan", None)
    for added in (getattr(model, "made_with", ""), plan and f"pruned-{plan.digest}"):
        name += f"{'-' if '.' in name else '.'}{added}" if added else ""
    return name


def class_names(model: nn.Module) -> list[str]:
    """What a model calls its classes: by its own config, or ImageNet-1k's where there are a thousand; else nothing.

    Of ImageNet's synonyms the first, unless two classes share it.
    """
    own = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if own and len(own) == getattr(model, "num_classes", 0):
        return list(own)
    if getattr(model, "num_classes", 0) != 1000:
        return []
    ensure_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(i) for i in range(1000)]
    first = [name.split(",")[0] for name in names]
    return [short if first.count(short) == 1 else name for short, name in zip(first, names, strict=True)]


def input_size(model: nn.Module) -> list[int]:
    """Channels, height and width of the images that a model was built for, as far as it tells."""
    return list(model_data_config(model)["input_size"])


def model_data_config(model: nn.Module, image: Sequence[int] | None = None) -> dict[str, Any]:
    """Give timm's description of preprocessing, corrected where a model was built for other images than that says.

    Of a model that does not say how values are prepared (``mean`` and ``std``), it is the size of its images alone.
    ``image`` is the shape ``(C, H, W)`` of the images it will see, where that is known.
    """
    ensure_torchvision()
    from timm.data import resolve_model_data_config

    config = {k: list(v) if isinstance(v, tuple) else v for k, v in resolve_model_data_config(model).items()}
    channels, *size = config["input_size"]
    size = [*(_size(model) or size)]
    built = [*image] if image is not None else [_channels(model, channels, size) or channels, *size]
    if not says_preparation(model):
        return {"input_size": built}
    for key in ("mean", "std"):
        config[key] = _figures(key, config[key])
        if len(config[key]) != built[0]:
            config[key] = [sum(config[key]) / len(config[key])] * built[0]
    return config | {"input_size": built}


def _figures(key: str, told: Any) -> list[float]:
    """The figures of each channel that a model tells, or the one for all of them.

    Raises:
        PmqError: they are none.
    """
    values = told if isinstance(told, list) else [told]
    if not values or not all(isinstance(value, int | float) for value in values):
        raise PmqError(f"the model's own config has {key} {shown(told)}; it is a number for each channel of its images")
    return values


def says_preparation(model: nn.Module) -> bool:
    """Whether a model tells how its images are prepared."""
    told = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return "mean" in told and "std" in told


def _size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width that the first module which tells any tells: what embeds patches, as a rule."""
    for module in model.modules():
        for name in ("img_size", "image_size"):
            size = getattr(module, name, None)
            size = (size, size) if isinstance(size, int) else size
            if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size):
                return size[0], size[1]
    return None


class _Reached(Exception):
    """A layer sees the image, or what was made of it."""


def _channels(model: nn.Module, channels: int, size: Sequence[int]) -> int | None:
    """How many channels the first layer takes, if it is a convolution of the image or of its patches; else nothing."""
    found: list[int] = []

    def stop(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d) and args and args[0].shape[1] == channels:
            found.append(layer.in_channels)
        raise _Reached

    image = torch.zeros(1, channels, *size)
    image = image.to(next(model.parameters(), image))
    hooks = [m.register_forward_pre_hook(stop) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with suppress(_Reached, *FAILURES), torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return found[0] if found else None
