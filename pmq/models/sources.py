"""Models that are not timm's: what a function of the user's makes, and those of Hugging Face's transformers."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pmq.core.errors import PmqError, one_line

#: how a model of transformers is named, and a function of a module: ``hf:google/vit-base-patch16-224``, ``package.module:make``
HUGGING_FACE = "hf:"
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
#: what is taken of models that see images and read texts
_TOWERS = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel", "siglip2": "Siglip2VisionModel"}


def is_elsewhere(name: str | None) -> bool:
    """Whether a name is not one of timm's.

    >>> [is_elsewhere(name) for name in ("hf:facebook/dinov2-small", "models:make", "hf-hub:timm/vit", "vit")]
    [True, True, False, False]
    """
    return name is not None and (name.startswith(HUGGING_FACE) or _FUNCTION.fullmatch(name) is not None)


def made_elsewhere(name: str, num_classes: int | None, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """Make a model by a name that is not one of timm's.

    Raises:
        PmqError: there is no such function, package or model, or what is given is no module.
    """
    settings = dict(options) | ({} if num_classes is None else {"num_classes": num_classes})
    if name.startswith(HUGGING_FACE):
        return _of_transformers(name.removeprefix(HUGGING_FACE), num_classes, pretrained, dict(options))
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a model of one's own lies in the folder that one works in
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever a module of the user's does when it is imported
        raise PmqError(f"model {name!r}: {_said(error)}; it names a function as package.module:function") from None
    try:
        made = make(**settings)
    except Exception as error:  # or the function when it is called
        raise PmqError(f"model {name!r} cannot be made with {settings}: {_said(error)}; see --model-kwargs") from None
    if not isinstance(made, nn.Module):
        raise PmqError(f"model {name!r} gives {type(made).__name__}, no torch module")
    return _told(made, name, {})


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def _of_transformers(name: str, num_classes: int | None, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise PmqError("models of Hugging Face need 'transformers', which is not installed; pip install 'pmq[hf]'") from None
    classes = {} if num_classes is None else {"num_labels": num_classes}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **classes, **options)
        kind = _class_of(transformers, config)
        if kind.config_class is not type(config):  # of a tower, which has a configuration of its own
            config = config.vision_config
        made = kind.from_pretrained(name, config=config) if pretrained else kind(config)
    except Exception as error:  # whatever a network, a file or a configuration stumbles over
        hint = "without a network, NAME may be a folder" if pretrained else "see its configuration"
        raise PmqError(f"transformers cannot make {name!r}: {one_line(error)}; {hint}") from None
    return _told(made, HUGGING_FACE + name, _config_of(transformers, name, config))


def _class_of(transformers: Any, config: Any) -> Any:
    """The class of a model: the one it was saved as if that classifies images, the tower that sees images, or its plain body."""
    saved = next((str(name) for name in config.architectures or () if name.endswith("ForImageClassification")), "")
    wanted = saved or _TOWERS.get(config.model_type, "")
    if wanted:
        return getattr(transformers, wanted)
    return transformers.AutoModel._model_mapping[type(config)]


def _config_of(transformers: Any, name: str, config: Any) -> dict[str, Any]:
    """What the image processor beside a model says, in timm's words, and the names of its classes."""
    found: dict[str, Any] = {}
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        found["input_size"] = (int(getattr(config, "num_channels", 3)), size, size)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
    except Exception:  # of a model that was saved without
        processor = {}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if processor.get(theirs):
            found[ours] = tuple(processor[theirs])
    labels = getattr(config, "id2label", None)
    if labels:
        found["label_names"] = [str(labels[i]) for i in sorted(labels)]
    return found


def _told(model: nn.Module, name: str, config: dict[str, Any]) -> nn.Module:
    """Give a model the description that timm's models have, as far as it has none."""
    described: Any = model
    if not getattr(model, "pretrained_cfg", None):
        described.pretrained_cfg = {"architecture": name, **config}
    return model
