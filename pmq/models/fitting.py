"""Selection of a model's weights in a checkpoint, under prefixes or in other layouts, and strict loading of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.models.checkpoint import StateDict
from pmq.models.describe import input_size

#: parts of names that wrappers of modules insert and that users' modules do not have
WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
#: buffers that timm recomputes
REBUILT = ("relative_position_index", "attn_mask")
#: prefixes of classifier heads beside those in a model's config; a feature extractor ignores such tensors
HEADS = ("head.", "head_dist.", "fc_norm.")
#: exceptions that timm's converters of checkpoints raise on checkpoints of other models
_NOT_OURS = (RuntimeError, LookupError, AttributeError, TypeError, ValueError, AssertionError, ArithmeticError)


@dataclass(frozen=True)
class Reading:
    """One way to read a checkpoint: its tensors below ``place``, with ``prefix`` removed from all names.

    Attributes:
        state: the tensors by name.
        place: key of the dictionary in the file, empty for the top level.
        prefix: prefix that was removed from the names.
        converted: whether timm converted the layout.
        resized: names of tensors that the conversion resampled.
    """

    state: StateDict
    place: str = ""
    prefix: str = ""
    converted: bool = False
    resized: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Changes made to the checkpoint's tensors, for a message; empty if there were none."""
        parts = [f"weights below {self.place!r}"] if self.place else []
        parts += [f"names without {self.prefix!r}"] if self.prefix else []
        parts += ["layout converted by timm"] if self.converted else []
        return ", ".join([*parts, f"resampled to this size: {', '.join(self.resized)}"] if self.resized else parts)


def find_weights(groups: dict[str, StateDict], model: nn.Module, checkpoint: str, name: str | None) -> StateDict:
    """Return the weights among ``groups`` of tensors that fit ``model``; the head may have any number of classes.

    If none fits, the closest ones are returned, so that :func:`load` reports what differs.

    Raises:
        PmqError: two different sets of weights fit.
    """
    expected, heads = model.state_dict(), head_prefixes(model)
    readings = [r for place, state in groups.items() for r in _readings(place, state, model)]
    fitting = [r for r in readings if _fits(r.state, expected, heads)]
    if not fitting:
        return max(readings, key=lambda r: (len(r.state.keys() & expected.keys()), not r.converted)).state
    first = fitting[0]
    for other in fitting[1:]:
        if other.place != first.place and not _same(first.state, other.state):
            places = " and ".join(repr(r.place) if r.place else "the top level" for r in (first, other))
            raise PmqError(
                f"checkpoint {checkpoint!r} holds weights at {places} that differ and both fit {name!r}; "
                "save the intended ones in a file of their own"
            )
    if first.description:
        message(f"checkpoint {checkpoint!r}: {first.description}")
    return first.state


def _readings(place: str, state: StateDict, model: nn.Module) -> Iterator[Reading]:
    """Yield readings of tensors: with their names, without each common prefix, and each of these as converted by timm."""
    plain = {WRAPPERS.sub("", key): value for key, value in state.items()}
    wrapped = "_orig_mod." if plain.keys() != state.keys() and len(plain) == len(state) else ""
    state = plain if wrapped else state
    convert: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    for prefix in _common_prefixes(state):
        short = {key[len(prefix) :]: value for key, value in state.items()}
        yield Reading(short, place, wrapped + prefix)
        if convert is None or not model.state_dict().keys() - short.keys():
            continue
        try:
            converted = convert(dict(short), model)
        except _NOT_OURS:
            continue
        if isinstance(converted, dict) and all(isinstance(value, Tensor) for value in converted.values()):
            yield Reading(converted, place, wrapped + prefix, True, _resized(short, converted))


def _resized(before: StateDict, after: StateDict) -> tuple[str, ...]:
    """Return the names of tensors whose number of elements the conversion changed; a name may have lost a prefix."""
    sizes = {key: [old.numel() for name, old in before.items() if f".{name}".endswith(f".{key}")] for key in after}
    return tuple(key for key, old in sizes.items() if old and after[key].numel() not in old)


def _common_prefixes(names: Collection[str]) -> list[str]:
    """Return the dotted prefixes that all names share, shortest first.

    >>> _common_prefixes(["module.model.norm.bias", "module.model.norm.weight"])
    ['', 'module.', 'module.model.', 'module.model.norm.']
    """
    ends = [name.split(".")[:-1] for name in (min(names), max(names))]  # sorted, all other names are between these two
    shared = [one + "." for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))]
    return ["".join(shared[:count]) for count in range(len(shared) + 1)]


def head_prefixes(model: Any) -> tuple[str, ...]:
    """Return the name prefixes of the tensors that depend on the number of classes."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _fits(state: StateDict, expected: StateDict, heads: tuple[str, ...]) -> bool:
    """Return whether a state dict has exactly the tensors of a model, with their shapes, apart from the head."""
    body = {key for key in expected if not key.startswith(heads)}
    present = {key for key in state if not key.startswith((*HEADS, *heads)) and not key.endswith(REBUILT)}
    return body <= state.keys() and present <= expected.keys() and all(state[key].shape == expected[key].shape for key in body)


def _same(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def load(model: nn.Module, state: StateDict, checkpoint: str, name: str | None) -> None:
    """Load ``state`` into ``model``, in place; a feature extractor ignores tensors of heads.

    Raises:
        PmqError: a tensor is missing, unexpected, of another shape, or of another kind of numbers.
    """
    expected = model.state_dict()
    spare = (*HEADS, *head_prefixes(model)) if getattr(model, "num_classes", None) == 0 else ()
    for key, target in expected.items():
        if key not in state:
            raise PmqError(f"checkpoint {checkpoint!r} has no {key!r}, which {name!r} needs; pass a checkpoint of this model")
        if state[key].shape != target.shape:
            shapes = f"{tuple(state[key].shape)}, but {tuple(target.shape)} in {name!r}"
            raise PmqError(f"checkpoint {checkpoint!r}: {key!r} is {shapes}; {_remedy(model, state, expected)}")
        if _kind(state[key]) != _kind(target):
            raise PmqError(
                f"checkpoint {checkpoint!r}: {key!r} holds {_type(state[key])}, but {_type(target)} in {name!r}; "
                f"pass a checkpoint with {_kind(target)} there"
            )
    for key in state.keys() - expected.keys():
        if not key.endswith(REBUILT) and not key.startswith(spare):
            raise PmqError(
                f"checkpoint {checkpoint!r} has {key!r}, which {name!r} does not have; pass a checkpoint of this model"
            )
    floats = [key for key, target in expected.items() if target.is_floating_point() and state[key].dtype != target.dtype]
    types = {_type(state[key]) for key in floats}
    if types:
        message(f"checkpoint {checkpoint!r} holds {', '.join(sorted(types))}, converted to FP32")
    model.load_state_dict({key: state[key] for key in expected})


def _remedy(model: nn.Module, state: StateDict, expected: StateDict) -> str:
    """Return advice on tensors of other shapes: the options (channels, image size, classes) under which they fit, if any."""
    shapes = {key: (state[key].shape, tensor.shape) for key, tensor in expected.items() if key in state}
    differing = {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}
    first = next(iter(differing.items()))
    channels, size, _ = input_size(model)
    options = []
    for key, (saved, target) in differing.items():
        if len(saved) == len(target) == 4 and saved[0] == target[0] and saved[2:] == target[2:] and target[1] == channels:
            options.append(f"`in_chans={saved[1]}`")
        elif "pos" in key and (side := _side(saved, target, size)) is not None:
            options.append(f"`img_size={side}`")
        elif key.startswith(head_prefixes(model)) and saved[1:] == target[1:]:
            options.append(f"`num_classes={saved[0]}`")
    if len(options) == len(differing):
        return f"pass {' '.join(dict.fromkeys(options))}, which the checkpoint seems to be for"
    return f"pass the model that the checkpoint is of; {len(differing)} tensors differ, the first is {first[0]!r}"


def _side(saved: Sequence[int], target: Sequence[int], size: int) -> int | None:
    """Return the image side for which a checkpoint has position embeddings, from a model for square images of side ``size``.

    Both shapes are ``(1, N, C)`` or similar; None where the numbers of positions are no squares.

    >>> _side((1, 577, 192), (1, 197, 192), 224)
    384
    """
    counts = [max(shape[:-1]) for shape in (saved, target)]
    for n_prefix in range(8):  # class tokens and registers
        roots = [round((count - n_prefix) ** 0.5) if count > n_prefix else 0 for count in counts]
        if all(root and root * root + n_prefix == count for root, count in zip(roots, counts, strict=True)):
            return size * roots[0] // roots[1] if size * roots[0] % roots[1] == 0 else None
    return None


def _kind(tensor: Tensor) -> str:
    """Return the kind of numbers that a tensor holds; tensors of one kind cannot be loaded as another."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "no plain numbers"
    if tensor.is_floating_point():
        return "floating-point numbers"
    return {torch.bool: "truth values"}.get(tensor.dtype, "complex numbers" if tensor.is_complex() else "integers")


def _type(tensor: Tensor) -> str:
    kind = "" if tensor.layout == torch.strided else f" ({str(tensor.layout).removeprefix('torch.')})"
    return str(tensor.dtype).removeprefix("torch.") + (" without values" if tensor.is_meta else kind)
