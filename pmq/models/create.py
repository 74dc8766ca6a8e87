"""Create models through timm, with weights from the embedded files, a checkpoint, or timm itself."""

from __future__ import annotations

import difflib
import pickle
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pmq.core.errors import PmqError, one_line
from pmq.core.paths import named_path
from pmq.models.checkpoint import StateDict, read_checkpoint
from pmq.models.embedded import ASSETS, EMBEDDED_NAME, embedded_architecture
from pmq.models.fitting import find_weights, head_prefixes, load
from pmq.models.torchvision_ops import ensure_torchvision

#: what timm, and what it loads weights with, raises on names, options and files it cannot serve
_FAILURES = (
    *(RuntimeError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError, EOFError),
    *(HTTPException, SafetensorError, pickle.PickleError),
)


def create_model(
    name: str | None = None,
    checkpoint: Path | str | None = None,
    num_classes: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> nn.Module:
    """Create a model in evaluation mode.

    Args:
        name: timm's ``arch.tag``; without it the embedded model.
        checkpoint: safetensors, or a torch file that holds tensors only. The number of classes is read off its head; a
            checkpoint without a head makes a feature extractor.
        num_classes: overrides what the checkpoint or timm says; 0 makes a feature extractor.
        pretrained: without a checkpoint, take timm's published weights; off, random ones drawn by ``seed``.
        seed: see ``pretrained``.

    Raises:
        PmqError: unknown name, unreadable or unsafe checkpoint, or one of another shape.
    """
    ensure_torchvision()
    checkpoint = None if checkpoint is None else named_path(checkpoint, "checkpoint")
    if name in (None, EMBEDDED_NAME):
        name = EMBEDDED_NAME
        checkpoint = checkpoint or ASSETS / "model.safetensors"
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _timm_model(name, num_classes, pretrained).eval()
    groups = read_checkpoint(checkpoint)
    skeleton = _timm_model(name, None, pretrained=False)
    state = find_weights(groups, skeleton, str(checkpoint), name)
    classes = _classes_of(state, skeleton)
    if num_classes not in (None, classes, 0):
        raise PmqError(f"--num-classes {num_classes}, but the head of {str(checkpoint)!r} has {classes}; drop the flag")
    classes = classes if num_classes is None else num_classes
    model = skeleton if classes == skeleton.num_classes else _timm_model(name, classes, pretrained=False)
    load(model, state, str(checkpoint), name)
    return model.eval()


def _timm_model(name: str | None, num_classes: int | None, pretrained: bool) -> Any:
    import timm

    options = {} if num_classes is None else {"num_classes": num_classes}
    if name == EMBEDDED_NAME:
        return embedded_architecture(**options)
    assert name is not None
    architecture = name.split(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` names them all"
        raise PmqError(f"model {name!r} is not one of timm's{hint}")
    failures: tuple[type[Exception], ...] = (*_FAILURES, *_hub_errors())
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except failures as error:
        hint = "pass --checkpoint with the weights" if pretrained else "see timm's documentation of that model"
        raise PmqError(f"timm cannot create {name!r}: {one_line(error) or type(error).__name__}; {hint}") from None


def _hub_errors() -> tuple[type[Exception], ...]:
    """What fetching from the Hugging Face Hub raises: its own exceptions, and those of the HTTP library it uses."""
    from huggingface_hub import errors

    return tuple(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception))


def check_named(name: str) -> str:
    """Give a model's name that a file told, if making it fetches nothing but timm's own weights.

    Raises:
        PmqError: it names a place, such as ``hf-hub:user/name``, that whoever runs us has not typed.
    """
    if ":" in name:
        raise PmqError(
            f"the file is of model {name!r}, which a file alone may not fetch; name the model yourself if you trust it"
        )
    return name


def _classes_of(state: StateDict, model: nn.Module) -> int:
    """Read the number of classes off the head; 0 without one."""
    for key in (f"{head_prefixes(model)[0]}weight", "head.weight", "head.fc.weight"):
        if key in state and state[key].ndim:
            return int(state[key].shape[0])
    return 0
