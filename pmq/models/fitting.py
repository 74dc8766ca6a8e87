"""Find the weights of a model in a checkpoint, whatever they are called there; and fill it with them, and with nothing else."""

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

#: names that wrappers of modules slip in, which no module of a user has
WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
#: buffers that timm computes anew
REBUILT = ("relative_position_index", "attn_mask")
#: what belongs to the head of a classifier, beside what a model's config names: a feature extractor does without
HEADS = ("head.", "head_dist.", "fc_norm.")
#: what timm's functions that convert checkpoints were shown to raise on those of other models
_NOT_OURS = (RuntimeError, LookupError, AttributeError, TypeError, ValueError, AssertionError, ArithmeticError)


@dataclass(frozen=True)
class Reading:
    """Weights of a model as a checkpoint can be read: below ``place``, with names that had ``prefix`` before them."""

    state: StateDict
    place: str = ""
    prefix: str = ""
    converted: bool = False
    resized: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What was done to read it so; nothing where nothing was."""
        parts = [f"weights below {self.place!r}"] if self.place else []
        parts += [f"names without {self.prefix!r}"] if self.prefix else []
        parts += ["layout converted by timm"] if self.converted else []
        return ", ".join([*parts, f"resampled to this size: {', '.join(self.resized)}"] if self.resized else parts)


def find_weights(groups: dict[str, StateDict], model: nn.Module, checkpoint: str, name: str | None) -> StateDict:
    """Give the weights among ``groups`` of tensors that are those of ``model``, but for a head of as many classes as may be.

    Raises:
        PmqError: two of them fit. Where none does, the one that comes nearest is given, for :func:`load` to refuse.
    """
    wanted, heads = model.state_dict(), head_prefixes(model)
    readings = [r for place, state in groups.items() for r in _readings(place, state, model)]
    fitting = [r for r in readings if _fits(r.state, wanted, heads)]
    if not fitting:
        return max(readings, key=lambda r: (len(r.state.keys() & wanted.keys()), not r.converted)).state
    first = fitting[0]
    for other in fitting[1:]:
        if other.place != first.place and not _same(first.state, other.state):
            places = " and ".join(repr(r.place) if r.place else "the top level" for r in (first, other))
            raise PmqError(
                f"checkpoint {checkpoint!r} holds weights at {places} that differ and both fit {name!r}; "
                "save those you mean by themselves"
            )
    if first.told:
        message(f"checkpoint {checkpoint!r}: {first.told}")
    return first.state


def _readings(place: str, state: StateDict, model: nn.Module) -> Iterator[Reading]:
    """Read tensors as they are called, without a prefix that all of them have, and as timm converts either."""
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
    """Names of what has another number of elements than what had that name, or that name behind others, before."""
    sizes = {key: [old.numel() for name, old in before.items() if f".{name}".endswith(f".{key}")] for key in after}
    return tuple(key for key, old in sizes.items() if old and after[key].numel() not in old)


def _common_prefixes(names: Collection[str]) -> list[str]:
    """Of all names, shortest first.

    >>> _common_prefixes(["module.model.norm.bias", "module.model.norm.weight"])
    ['', 'module.', 'module.model.', 'module.model.norm.']
    """
    ends = [name.split(".")[:-1] for name in (min(names), max(names))]  # all lie between these
    shared = [one + "." for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))]
    return ["".join(shared[:count]) for count in range(len(shared) + 1)]


def head_prefixes(model: Any) -> tuple[str, ...]:
    """Beginnings of the names of what depends on the number of classes."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _fits(state: StateDict, wanted: StateDict, heads: tuple[str, ...]) -> bool:
    body = {key for key in wanted if not key.startswith(heads)}
    others = {key for key in state if not key.startswith((*HEADS, *heads)) and not key.endswith(REBUILT)}
    return body <= state.keys() and others <= wanted.keys() and all(state[key].shape == wanted[key].shape for key in body)


def _same(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def load(model: nn.Module, state: StateDict, checkpoint: str, name: str | None) -> None:
    """Fill ``model``, a feature extractor without what else belongs to a head.

    Raises:
        PmqError: a tensor is missing, one too many, of another shape, or of numbers of another kind.
    """
    own = model.state_dict()
    spare = (*HEADS, *head_prefixes(model)) if getattr(model, "num_classes", None) == 0 else ()
    for key, wanted in own.items():
        if key not in state:
            raise PmqError(f"checkpoint {checkpoint!r} has no {key!r}, which {name!r} needs: it is of another model")
        if state[key].shape != wanted.shape:
            shapes = f"{tuple(state[key].shape)}, in {name!r} it is {tuple(wanted.shape)}"
            raise PmqError(f"checkpoint {checkpoint!r}: {key!r} is {shapes}; {_way_out(model, state, own)}")
        if _kind(state[key]) != _kind(wanted):
            raise PmqError(
                f"checkpoint {checkpoint!r}: {key!r} holds {_type(state[key])}, in {name!r} it is {_type(wanted)}; "
                f"give a checkpoint with {_kind(wanted)} there"
            )
    for key in state.keys() - own.keys():
        if not key.endswith(REBUILT) and not key.startswith(spare):
            raise PmqError(f"checkpoint {checkpoint!r} has {key!r}, which {name!r} does not: it is of another model")
    types = {_type(state[key]) for key, wanted in own.items() if wanted.is_floating_point() and state[key].dtype != wanted.dtype}
    if types:
        message(f"checkpoint {checkpoint!r} holds {', '.join(sorted(types))}: taken as FP32")
    model.load_state_dict({key: state[key] for key in own})


def _way_out(model: nn.Module, state: StateDict, own: StateDict) -> str:
    """What would make a model fit tensors of other shapes, if a flag would: other channels, another size, other classes."""
    differing = {key: (state[key].shape, own[key].shape) for key in own if key in state and state[key].shape != own[key].shape}
    first = next(iter(differing.items()))
    channels, size, _ = input_size(model)
    flags = []
    for key, (found, wanted) in differing.items():
        if len(found) == len(wanted) == 4 and found[0] == wanted[0] and found[2:] == wanted[2:] and wanted[1] == channels:
            flags.append(f"--in-chans {found[1]}")
        elif "pos" in key and (side := _side(found, wanted, size)) is not None:
            flags.append(f"--img-size {side}")
        elif key.startswith(head_prefixes(model)) and found[1:] == wanted[1:]:
            flags.append(f"--num-classes {found[0]}")
    if len(flags) == len(differing):
        return f"pass {' '.join(dict.fromkeys(flags))}, which it seems to be made for"
    return f"give the model the checkpoint was made for; {len(differing)} tensors differ, {first[0]!r} the first of them"


def _side(found: Sequence[int], wanted: Sequence[int], size: int) -> int | None:
    """The images' side that as many position embeddings are for, of a model for squares of ``size``.

    >>> _side((1, 577, 192), (1, 197, 192), 224)
    384
    """
    counts = [max(shape[:-1]) for shape in (found, wanted)]
    for others in range(8):  # class tokens and registers
        roots = [round((count - others) ** 0.5) if count > others else 0 for count in counts]
        if all(root and root * root + others == count for root, count in zip(roots, counts, strict=True)):
            return size * roots[0] // roots[1] if size * roots[0] % roots[1] == 0 else None
    return None


def _kind(tensor: Tensor) -> str:
    """What numbers a tensor holds: those of one kind cannot stand for those of another."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "no plain numbers"
    if tensor.is_floating_point():
        return "floating-point numbers"
    return {torch.bool: "truth values"}.get(tensor.dtype, "complex numbers" if tensor.is_complex() else "integers")


def _type(tensor: Tensor) -> str:
    kind = "" if tensor.layout == torch.strided else f" ({str(tensor.layout).removeprefix('torch.')})"
    return str(tensor.dtype).removeprefix("torch.") + (" without values" if tensor.is_meta else kind)
