"""Creation of models with weights from the embedded files, a checkpoint, or the library that defines them."""

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

#: exceptions that timm and its weight loaders raise on unsupported names, options and files
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
        name: timm's ``arch.tag``; ``package.module:function`` for a function that returns a model; ``hf:NAME`` for a model of
            transformers; None for the embedded model.
        checkpoint: safetensors file, or torch file that contains only tensors. The number of classes is read from its head; a
            checkpoint without a head gives a feature extractor.
        num_classes: number of classes, in place of that of the checkpoint or of timm; 0 gives a feature extractor.
        pretrained: without a checkpoint, whether to load the published weights; otherwise weights are random.
        seed: seed of random weights.
        options: further arguments of the function that creates the model, such as ``{"img_size": 384}``.
        input_size: ``(C, H, W)`` of the images the model will see; position embeddings of a checkpoint are resampled.

    Raises:
        PmqError: the name is unknown, or the checkpoint is unreadable, unsafe or does not fit the model.
    """
    ensure_torchvision()
    checkpoint = None if checkpoint is None else named_path(checkpoint, "checkpoint")
    arguments = {**(options or {}), **_size_arguments(name, input_size)}
    if name in (None, EMBEDDED_NAME):
        name = EMBEDDED_NAME
        checkpoint = checkpoint or ASSETS / "model.safetensors"
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _described(_model(name, num_classes, pretrained, arguments), arguments, input_size).eval()
    groups = read_checkpoint(checkpoint)
    skeleton = _described(_model(name, None, False, arguments), arguments, input_size)
    state = find_weights(groups, skeleton, str(checkpoint), name)
    if is_elsewhere(name):
        load(skeleton, state, str(checkpoint), name)
        return skeleton.eval()
    classes = _classes_of(state, skeleton)
    if num_classes not in (None, classes, 0):
        raise PmqError(f"`num_classes={num_classes}`, but the head of {str(checkpoint)!r} has {classes}; omit `num_classes`")
    classes = classes if num_classes is None else num_classes
    model = skeleton
    if classes != skeleton.num_classes:
        model = _described(_model(name, classes, False, arguments), arguments, input_size)
    load(model, state, str(checkpoint), name)
    return model.eval()


def _size_arguments(name: str | None, input_size: Sequence[int] | None) -> dict[str, Any]:
    """Return the arguments of timm's models for an image size; other models have arguments of their own for it."""
    if input_size is None:
        return {}
    if is_elsewhere(name):
        raise PmqError(f"`input_size` is only for timm's models; pass the size of {name!r} with `model_kwargs`")
    return {"in_chans": input_size[0], "img_size": tuple(input_size[1:])}


def _described(model: Any, arguments: Mapping[str, Any], input_size: Sequence[int] | None) -> Any:
    """Record on a model, in place, its image size and a digest of the arguments it was created with; return it."""
    if input_size is not None:
        model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), "input_size": tuple(input_size)}
    if arguments:
        model.made_with = hashlib.sha256(repr(sorted(arguments.items())).encode()).hexdigest()[:6]
    return model


def _model(name: str | None, num_classes: int | None, pretrained: bool, arguments: Mapping[str, Any]) -> Any:
    import timm

    if name is not None and is_elsewhere(name):
        return made_elsewhere(name, num_classes, pretrained, arguments)
    options = dict(arguments) | ({} if num_classes is None else {"num_classes": num_classes})
    if name == EMBEDDED_NAME:
        return embedded_architecture(**options)
    assert name is not None
    architecture = name.split(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists all names"
        raise PmqError(f"model {name!r} is unknown to timm{hint}")
    failures: tuple[type[Exception], ...] = (*_FAILURES, *_hub_errors())
    try:
        try:
            return timm.create_model(name, pretrained=pretrained, **options)
        except TypeError as error:
            if "img_size" not in options or "img_size" not in str(error):
                raise
            del options["img_size"]  # convolutional models accept images of any size
            return timm.create_model(name, pretrained=pretrained, **options)
    except failures as error:
        hint = "pass `checkpoint` with the weights" if pretrained else "see timm's documentation of this model"
        raise PmqError(f"timm cannot create {name!r}: {one_line(error) or type(error).__name__}; {hint}") from None


def _hub_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of downloads from the Hugging Face Hub, including those of its HTTP library."""
    from huggingface_hub import errors

    return tuple(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception))


def check_named(name: str) -> str:
    """Return a model's name from a file, if creating the model downloads nothing but timm's own weights.

    Raises:
        PmqError: the name is a location, such as ``hf-hub:user/name``, which only the user may choose.
    """
    if ":" in name:
        raise PmqError(
            f"the file names model {name!r}, which is not downloaded because a file says so; name the model yourself if you "
            "trust it, that of a pruned model with `base`"
        )
    return name


def check_made(name: str, source: str) -> None:
    """Check that a model can be created by its name; ``source`` is the file or folder that contains the name.

    Raises:
        PmqError: the name is neither timm's nor that of a function or a model of transformers, so it was passed as a module.
    """
    ensure_torchvision()
    import timm

    if name != EMBEDDED_NAME and not is_elsewhere(name) and not timm.is_model(name.split(".")[0]):
        raise PmqError(
            f"the model of {source!r} was passed as a Python module, {name!r}; continue in Python, as with "
            f"pmq.deploy(model, {source!r}, ...), or name a function that creates it as package.module:function"
        )


def _classes_of(state: StateDict, model: nn.Module) -> int:
    """Return the number of classes of a checkpoint's head; 0 if it has none."""
    for key in (f"{head_prefixes(model)[0]}weight", "head.weight", "head.fc.weight"):
        if key in state and state[key].ndim:
            return int(state[key].shape[0])
    return 0
