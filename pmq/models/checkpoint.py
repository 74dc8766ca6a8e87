"""Read checkpoints: by what a file holds, not by its name, and without running anything from it."""

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
#: what torch.load raises on bytes that it cannot make sense of
_UNREADABLE = (
    *(pickle.PickleError, struct.error, EOFError, OSError, MemoryError),
    *(RuntimeError, ValueError, LookupError, AssertionError, TypeError, AttributeError, ArithmeticError),
)
#: how deep tensors may lie: ``{"state_dict": {"model": {...}}}`` and one more
_DEPTH = 4
_LFS = b"version https://git-lfs"


def read_checkpoint(path: Path) -> dict[str, StateDict]:
    """Read all dictionaries of tensors of a safetensors or torch file, by the place they lie at: ``""``, ``model``, ...

    Raises:
        PmqError: the file is absent or no file, truncated, holds code, or holds no tensors.
    """
    name = f"checkpoint {str(path)!r}"
    try:
        if not path.exists():
            raise PmqError(f"{name} does not exist; give a .safetensors or torch file")
        if not path.is_file():
            raise PmqError(f"{name} is no regular file; give a .safetensors or torch file")
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise PmqError(f"{name} cannot be read: {one_line(error)}") from None
    if not head:
        raise PmqError(f"{name} is empty; give a .safetensors or torch file")
    if head == _LFS:
        raise PmqError(f"{name} is a pointer of Git LFS in place of the weights; fetch them with `git lfs pull`")
    found = _load_safetensors(path, name) if head[8:9] == b"{" else _load_torch(path, name)
    if not isinstance(found, Mapping):
        raise PmqError(f"{name} holds no state dict, but {type(found).__name__}; give a state dict")
    groups = dict(_groups(found))
    if not groups:
        raise PmqError(f"{name} holds no tensors; give a state dict")
    return groups


def _load_safetensors(path: Path, name: str) -> Any:
    """Read a file that begins as safetensors do: eight bytes of a length, then JSON."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise PmqError(f"{name} is truncated or no checkpoint: {one_line(error)}") from None


def _load_torch(path: Path, name: str) -> Any:
    try:
        # Read as a stream: of a path torch would go by the name. Timm keeps its arguments beside the weights.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if "TorchScript" in str(error):
            raise PmqError(
                f"{name} is a TorchScript program, which is not run; save the state dict of its module as safetensors"
            ) from None
        if isinstance(error, pickle.UnpicklingError) and (code := _code_in(path)):
            raise PmqError(f"{name} holds pickled code ({code}), which is not run; save its state dict as safetensors") from None
        raise PmqError(f"{name} is truncated or no checkpoint: {one_line(error)}") from None


def _code_in(path: Path) -> str:
    """Name what the file would have run; nothing, if that is not why it cannot be read."""
    try:
        with path.open("rb") as file:
            return ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file)[:3])
    except _UNREADABLE:
        return ""


def _groups(found: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, StateDict]]:
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield ".".join(place), tensors
    for key, inner in found.items():
        if isinstance(key, str) and isinstance(inner, Mapping) and len(place) < _DEPTH:
            yield from _groups(inner, (*place, key))
