"""Create models through timm, with weights from the embedded files, a checkpoint, or timm itself."""

from __future__ import annotations

import difflib
import hashlib
import pickle
from collections.abc import Mapping, Sequence
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
from pmq.models.sources import is_elsewhere, made_elsewhere
from pmq.models.torchvision_ops import ensure_torchvision

#: what timm, and what it loads weights with, raises on names, options and files it cannot serve
_FAILURES = (
    *(RuntimeError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError, EOFError),
    ArithmeticError,
    *(HTTPException, SafetensorError, pickle.PickleError),
)


def create_model(
    name: str | None = None,
    checkpoint: Path | str | None = None,
    num_classes: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Create a model in evaluation mode.

    Args:
        name: timm's ``arch.tag``; ``package.module:function`` of a function that makes one; ``hf:NAME`` of a model of
            transformers; without it the embedded model.
        checkpoint: safetensors, or a torch file that holds tensors only. The number of classes is read off its head; a
            checkpoint without a head makes a feature extractor.
        num_classes: overrides what the checkpoint or timm says; 0 makes a feature extractor.
        pretrained: without a checkpoint, take timm's published weights; off, random ones drawn by ``seed``.
        seed: see ``pretrained``.
        options: further arguments of whatever makes the model, such as ``{"img_size": 384}``.
        input_size: ``(C, H, W)`` of the images it is to see; position embeddings of a checkpoint are resampled.

    Raises:
        PmqError: unknown name, unreadable or unsafe checkpoint, or one of another shape.
    """
    ensure_torchvision()
    checkpoint = None if checkpoint is None else named_path(checkpoint, "checkpoint")
    made = {**(options or {}), **_sized(name, input_size)}
    if name in (None, EMBEDDED_NAME):
        name = EMBEDDED_NAME
        checkpoint = checkpoint or ASSETS / "model.safetensors"
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _described(_model(name, num_classes, pretrained, made), made, input_size).eval()
    groups = read_checkpoint(checkpoint)
    skeleton = _described(_model(name, None, False, made), made, input_size)
    state = find_weights(groups, skeleton, str(checkpoint), name)
    if is_elsewhere(name):
        load(skeleton, state, str(checkpoint), name)
        return skeleton.eval()
    classes = _classes_of(state, skeleton)
    if num_classes not in (None, classes, 0):
        raise PmqError(f"--num-classes {num_classes}, but the head of {str(checkpoint)!r} has {classes}; drop the flag")
    classes = classes if num_classes is None else num_classes
    model = skeleton
    if classes != skeleton.num_classes:
        model = _described(_model(name, classes, False, made), made, input_size)
    load(model, state, str(checkpoint), name)
    return model.eval()


def _sized(name: str | None, input_size: Sequence[int] | None) -> dict[str, Any]:
    """Arguments of timm's models for images of a size; others are told their size by arguments of their own."""
    if input_size is None:
        return {}
    if is_elsewhere(name):
        raise PmqError(f"--input-size is for timm's models; tell {name!r} its size by --model-kwargs")
    return {"in_chans": input_size[0], "img_size": tuple(input_size[1:])}


def _described(model: Any, given: Mapping[str, Any], input_size: Sequence[int] | None) -> Any:
    """Let a model tell for which images it was made, and that it was made with arguments of its own."""
    if input_size is not None:
        model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), "input_size": tuple(input_size)}
    if given:
        model.made_with = hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()[:6]
    return model


def _model(name: str | None, num_classes: int | None, pretrained: bool, given: Mapping[str, Any]) -> Any:
    import timm

    if name is not None and is_elsewhere(name):
        return made_elsewhere(name, num_classes, pretrained, given)
    options = dict(given) | ({} if num_classes is None else {"num_classes": num_classes})
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
        try:
            return timm.create_model(name, pretrained=pretrained, **options)
        except TypeError as error:
            if "img_size" not in options or "img_size" not in str(error):
                raise
            del options["img_size"]  # a network of convolutions takes images of any size
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
            f"the file is of model {name!r}, which a file alone may not fetch; name the model yourself if you trust it, "
            "that of a pruned one with --base"
        )
    return name


def check_made(name: str, what: str) -> None:
    """Raise if a model that was given in Python cannot be made by its name.

    Raises:
        PmqError: it is none of timm's, nor one that is made elsewhere.
    """
    ensure_torchvision()
    import timm

    if name != EMBEDDED_NAME and not is_elsewhere(name) and not timm.is_model(name.split(".")[0]):
        raise PmqError(
            f"{what!r} was made from a module in Python, {name!r}: go on there, as with pmq.deploy(model, {what!r}, ...), or "
            "name a function that makes it, as package.module:function"
        )


def _classes_of(state: StateDict, model: nn.Module) -> int:
    """Read the number of classes off the head; 0 without one."""
    for key in (f"{head_prefixes(model)[0]}weight", "head.weight", "head.fc.weight"):
        if key in state and state[key].ndim:
            return int(state[key].shape[0])
    return 0
