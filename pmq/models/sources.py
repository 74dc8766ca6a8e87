"""Models from outside timm: returned by a function of the user, or from Hugging Face's transformers."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pmq.core.errors import PmqError, one_line

#: prefix of the names of transformers' models, as in ``hf:google/vit-base-patch16-224``
HUGGING_FACE = "hf:"
#: names of functions, as in ``package.module:make``
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
#: class of the image tower by model type, for models of images and texts
_TOWERS = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel", "siglip2": "Siglip2VisionModel"}


def is_elsewhere(name: str | None) -> bool:
    """Return whether a name is that of a function or of a model of transformers, not one of timm's.

    >>> [is_elsewhere(name) for name in ("hf:facebook/dinov2-small", "models:make", "hf-hub:timm/vit", "vit")]
    [True, True, False, False]
    """
    return name is not None and (name.startswith(HUGGING_FACE) or _FUNCTION.fullmatch(name) is not None)


def made_elsewhere(name: str, num_classes: int | None, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """Create a model by a name for which :func:`is_elsewhere` is true.

    Raises:
        PmqError: the function, package or model does not exist, or the function fails or returns no module.
    """
    settings = dict(options) | ({} if num_classes is None else {"num_classes": num_classes})
    if name.startswith(HUGGING_FACE):
        return _of_transformers(name.removeprefix(HUGGING_FACE), num_classes, pretrained, dict(options))
    module, _, function = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # users define models in their working directory
        sys.path.insert(0, folder)
    try:
        make = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing a user's module may raise anything
        raise PmqError(f"model {name!r} cannot be imported as package.module:function: {_describe(error)}") from None
    try:
        model = make(**settings)
    except Exception as error:  # as may calling its function
        raise PmqError(f"model {name!r} cannot be created with {settings}: {_describe(error)}; see `model_kwargs`") from None
    if not isinstance(model, nn.Module):
        raise PmqError(f"model {name!r} returns {type(model).__name__} instead of a torch module")
    return _with_config(model, name, {})


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def _of_transformers(name: str, num_classes: int | None, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise PmqError("models of Hugging Face need 'transformers', which is not installed; run: pip install 'pmq[hf]'") from None
    classes = {} if num_classes is None else {"num_labels": num_classes}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **classes, **options)
        kind = _class_of(transformers, config)
        if kind.config_class is not type(config):  # the image tower has its own configuration
            config = config.vision_config
        model = kind.from_pretrained(name, config=config) if pretrained else kind(config)
    except Exception as error:  # networks, files and configurations may raise anything
        hint = "without a network, NAME may be a local folder" if pretrained else "see its configuration"
        raise PmqError(f"transformers cannot create {name!r}: {one_line(error)}; {hint}") from None
    return _with_config(model, HUGGING_FACE + name, _config_of(transformers, name, config))


def _class_of(transformers: Any, config: Any) -> Any:
    """Return the class of a model: the image classifier it was saved as, else its image tower, else its body."""
    saved = next((str(name) for name in config.architectures or () if name.endswith("ForImageClassification")), "")
    kind = saved or _TOWERS.get(config.model_type, "")
    if kind:
        return getattr(transformers, kind)
    return transformers.AutoModel._model_mapping[type(config)]


def _config_of(transformers: Any, name: str, config: Any) -> dict[str, Any]:
    """Return the settings of a model's image processor under timm's keys, and the names of its classes."""
    settings: dict[str, Any] = {}
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        settings["input_size"] = (int(getattr(config, "num_channels", 3)), size, size)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
    except Exception:  # the model was saved without an image processor
        processor = {}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if processor.get(theirs):
            settings[ours] = tuple(processor[theirs])
    labels = getattr(config, "id2label", None)
    if labels:
        settings["label_names"] = [str(labels[i]) for i in sorted(labels)]
    return settings


def _with_config(model: nn.Module, name: str, config: dict[str, Any]) -> nn.Module:
    """Return a model with a ``pretrained_cfg`` like timm's, which is set in place unless it has one."""
    described: Any = model
    if not getattr(model, "pretrained_cfg", None):
        described.pretrained_cfg = {"architecture": name, **config}
    return model
