"""One tensor of what a model gives: those of other libraries give dictionaries, tuples and records."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message

#: parts of an output that are taken before others
PREFERRED = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
#: what a user's forward raises on an image that it cannot take
FAILURES = (RuntimeError, AssertionError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
Key = str | int


@dataclasses.dataclass(frozen=True)
class SelectedOutput:
    """A forward hook: gives the part of an output that a path leads to, in FP32.

    Of several paths it gives all, side by side in one vector ``(B, C)``, each divided by its ``scale``.
    """

    paths: tuple[tuple[Key, ...], ...]
    scales: tuple[float, ...] = ()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        """Give the part."""
        parts = [_part(output, path).float() for path in self.paths]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.flatten(1) / scale for part, scale in zip(parts, self.scales, strict=True)], 1)


def _part(output: Any, path: tuple[Key, ...]) -> Any:
    for key in path:
        output = _items(output)[key]
    return output


def run(model: nn.Module, images: Tensor) -> Any:
    """Compute ``model`` on ``images`` ``(B, C, H, W)``.

    Raises:
        PmqError: it cannot take them, or needs more than them, or gives one tensor that is not of the batch.
    """
    kind = type(model).__name__
    try:
        inspect.signature(model.forward).bind(images)
    except TypeError as error:
        raise PmqError(
            f"{kind}.forward cannot be called with a batch of images alone ({one_line(error)}); give a module that can be"
        ) from None
    try:
        with torch.no_grad():
            output = model(images)
    except PmqError:
        raise
    except FAILURES as error:
        what = f"{'an image' if len(images) == 1 else f'{len(images)} images'} of shape {tuple(images.shape[1:])}"
        raise PmqError(f"model {kind} fails on {what}: {one_line(error) or type(error).__name__}") from None
    if isinstance(output, Tensor) and output.shape[:1] != images.shape[:1]:
        raise PmqError(f"model {kind} gives shape {tuple(output.shape)} for a batch of {len(images)}; outputs must be (B, ...)")
    return output


def pick_output(model: nn.Module, image: Tensor) -> Tensor:
    """Make ``model``, in place, give one tensor ``(B, ...)`` of FP32; give that for ``image`` ``(1, C, H, W)``.

    Logits come first, then pooled and other features, then whatever there is; a line tells which.

    Raises:
        PmqError: it gives none, or one that is not of the batch.
    """
    output = run(model, image)
    parts = {path: part for path, part in tensors_of(output) if part.is_floating_point()}
    if not parts:
        met = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
        raise PmqError(f"model {type(model).__name__} gives {met}; it must give logits or features, a tensor of floats")
    paths = _wanted(model, parts)
    found = parts[paths[0]]
    if len(paths) > 1 or paths[0] or found.dtype != torch.float32:
        scales = tuple(float(parts[path].float().flatten(1).norm(dim=1).mean().clamp(min=1e-15)) for path in paths)
        model.register_forward_hook(SelectedOutput(paths, scales))
        if paths[0]:
            taken = ", ".join(map(_dotted, paths))
            message(f"of what the model gives, {', '.join(map(_dotted, parts))}, {taken} is taken")
    if len(paths) > 1:
        model.num_classes = 0  # type: ignore[assignment]
    elif "logits" in paths[0] and found.ndim and not hasattr(model, "num_classes"):
        model.num_classes = found.shape[-1]  # type: ignore[assignment]
    return run(model, image) if len(paths) > 1 or paths[0] else found.float()


def _wanted(model: nn.Module, parts: Mapping[tuple[Key, ...], Tensor]) -> tuple[tuple[Key, ...], ...]:
    """Paths to the outputs that the model was told to give, or to the one that is preferred."""
    names = getattr(model, "outputs_taken", ())
    if not names:
        return (min(parts, key=lambda p: next((i for i, name in enumerate(PREFERRED) if name in p), len(PREFERRED))),)
    known = {_dotted(path): path for path in parts}
    for name in names:
        if name not in known:
            raise PmqError(f"output {name!r} is none of the model's; it gives {', '.join(known) or 'a single tensor'}")
    return tuple(known[name] for name in names)


def _dotted(path: tuple[Key, ...]) -> str:
    return ".".join(map(str, path)) or "a tensor"


def _items(output: Any) -> dict[Key, Any]:
    """Parts of an output by name or number; nothing where it has none."""
    if isinstance(output, Mapping):
        return {key if isinstance(key, int) else str(key): value for key, value in output.items()}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    names = getattr(output, "_fields", None)  # of a named tuple
    if isinstance(output, tuple | list):
        return dict(zip(names or range(len(output)), output, strict=True))
    return {}


def tensors_of(output: Any, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Tensor]]:
    """All tensors of an output, each by the names or numbers that lead to it."""
    if isinstance(output, Tensor):
        yield path, output
    for key, part in _items(output).items():
        yield from tensors_of(part, (*path, key))
