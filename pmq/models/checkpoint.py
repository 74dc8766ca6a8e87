"""Reading of checkpoints, by a file's content rather than its name, and without executing code from it."""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pmq.core.errors import PmqError, one_line

StateDict = dict[str, Tensor]
#: exceptions that torch.load raises on files that it cannot decode
_UNREADABLE = (
    *(pickle.PickleError, struct.error, EOFError, OSError, MemoryError),
    *(RuntimeError, ValueError, LookupError, AssertionError, TypeError, AttributeError, ArithmeticError),
)
#: maximum nesting depth of tensors: ``{"state_dict": {"model": {...}}}`` and one more level
_DEPTH = 4
#: first bytes of a Git LFS pointer
_LFS = b"version https://git-lfs"


def read_checkpoint(path: Path) -> dict[str, StateDict]:
    """Read all dictionaries of tensors of a safetensors or torch file.

    Returns:
        The dictionaries by their place in the file: ``""`` for the top level, ``model``, ...

    Raises:
        PmqError: the file is missing, not a regular file, truncated, contains code, or contains no tensors.
    """
    name = f"checkpoint {str(path)!r}"
    try:
        if not path.exists():
            raise PmqError(f"{name} does not exist; pass a .safetensors or torch file")
        if not path.is_file():
            raise PmqError(f"{name} is not a regular file; pass a .safetensors or torch file")
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise PmqError(f"{name} cannot be read: {one_line(error)}") from None
    if not head:
        raise PmqError(f"{name} is empty; pass a .safetensors or torch file")
    if head == _LFS:
        raise PmqError(f"{name} is a Git LFS pointer instead of the weights; fetch them with `git lfs pull`")
    content = _load_safetensors(path, name) if head[8:9] == b"{" else _load_torch(path, name)
    if not isinstance(content, Mapping):
        raise PmqError(f"{name} contains {type(content).__name__} instead of a state dict; pass a file with a state dict")
    groups = dict(_groups(content))
    if not groups:
        raise PmqError(f"{name} contains no tensors; pass a file with a state dict")
    return groups


def _load_safetensors(path: Path, name: str) -> Any:
    """Read a file that begins like safetensors: eight bytes of a length, then JSON."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise PmqError(f"{name} is truncated or not a checkpoint: {one_line(error)}") from None


def _load_torch(path: Path, name: str) -> Any:
    try:
        # Read as a stream, as torch would choose the format of a path by its name. Files of timm contain an argparse.Namespace.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if "TorchScript" in str(error):
            raise PmqError(
                f"{name} is a TorchScript program, which pmq does not run; save the state dict of its module as safetensors"
            ) from None
        if isinstance(error, pickle.UnpicklingError) and (code := _code_in(path)):
            raise PmqError(
                f"{name} contains pickled code ({code}), which pmq does not run; save its state dict as safetensors"
            ) from None
        raise PmqError(f"{name} is truncated or not a checkpoint: {one_line(error)}") from None


def _code_in(path: Path) -> str:
    """Return the names of the code that a file would run; empty if it contains none or cannot be read at all."""
    try:
        with path.open("rb") as file:
            return ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file)[:3])
    except _UNREADABLE:
        return ""


def _groups(content: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, StateDict]]:
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield ".".join(place), tensors
    for key, inner in content.items():
        if isinstance(key, str) and isinstance(inner, Mapping) and len(place) < _DEPTH:
            yield from _groups(inner, (*place, key))
