"""Selection of one tensor from a model's output, which may be a dictionary, tuple or record."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message

#: names of outputs that are preferred over others, best first
PREFERRED = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
#: exceptions that a user's forward raises on an unsuitable image
FAILURES = (RuntimeError, AssertionError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
#: name or index of a part of an output
Key = str | int


@dataclasses.dataclass(frozen=True)
class SelectedOutput:
    """Forward hook that replaces an output by the part at a path, in FP32.

    Parts at several paths are flattened, divided by their ``scales`` and concatenated to ``(B, C)``.
    """

    paths: tuple[tuple[Key, ...], ...]
    scales: tuple[float, ...] = ()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        """Return the selected part of ``output``."""
        parts = [_part(output, path).float() for path in self.paths]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.flatten(1) / scale for part, scale in zip(parts, self.scales, strict=True)], 1)


def _part(output: Any, path: tuple[Key, ...]) -> Any:
    for key in path:
        output = _items(output)[key]
    return output


def run(model: nn.Module, images: Tensor) -> Any:
    """Return the output of ``model`` for ``images`` ``(B, C, H, W)``.

    Raises:
        PmqError: the model fails on the images, needs further arguments, or returns a tensor without the batch axis.
    """
    kind = type(model).__name__
    try:
        inspect.signature(model.forward).bind(images)
    except TypeError as error:
        raise PmqError(
            f"{kind}.forward cannot be called with only a batch of images ({one_line(error)}); pass a module that can"
        ) from None
    try:
        with torch.no_grad():
            output = model(images)
    except PmqError:
        raise
    except FAILURES as error:
        batch = f"{'an image' if len(images) == 1 else f'{len(images)} images'} of shape {tuple(images.shape[1:])}"
        raise PmqError(f"model {kind} fails on {batch}: {one_line(error) or type(error).__name__}") from None
    if isinstance(output, Tensor) and output.shape[:1] != images.shape[:1]:
        raise PmqError(f"model {kind} returns shape {tuple(output.shape)} for a batch of {len(images)}; outputs must be (B, ...)")
    return output


def pick_output(model: nn.Module, image: Tensor) -> Tensor:
    """Make ``model`` return one FP32 tensor ``(B, ...)``, in place, and return that for ``image`` ``(1, C, H, W)``.

    Without a choice by :func:`pmq.with_output`, logits are preferred, then pooled and other features, then the first tensor;
    a message names the selected one.

    Raises:
        PmqError: the model returns no floating-point tensor, or one without the batch axis.
    """
    output = run(model, image)
    parts = {path: part for path, part in tensors_of(output) if part.is_floating_point()}
    if not parts:
        met = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
        raise PmqError(f"model {type(model).__name__} returns {met}; it must return logits or features, a floating-point tensor")
    paths = _selected(model, parts)
    selected = parts[paths[0]]
    if len(paths) > 1 or paths[0] or selected.dtype != torch.float32:
        scales = tuple(float(parts[path].float().flatten(1).norm(dim=1).mean().clamp(min=1e-15)) for path in paths)
        model.register_forward_hook(SelectedOutput(paths, scales))
        if paths[0]:
            message(f"of the model's outputs {', '.join(map(_dotted, parts))}, pmq uses {', '.join(map(_dotted, paths))}")
    if len(paths) > 1:
        model.num_classes = 0  # type: ignore[assignment]
    elif "logits" in paths[0] and selected.ndim and not hasattr(model, "num_classes"):
        model.num_classes = selected.shape[-1]  # type: ignore[assignment]
    return run(model, image) if len(paths) > 1 or paths[0] else selected.float()


def _selected(model: nn.Module, parts: Mapping[tuple[Key, ...], Tensor]) -> tuple[tuple[Key, ...], ...]:
    """Return the paths of the outputs chosen by :func:`pmq.with_output`, or of the preferred output."""
    names = getattr(model, "outputs_taken", ())
    if not names:
        return (min(parts, key=lambda p: next((i for i, name in enumerate(PREFERRED) if name in p), len(PREFERRED))),)
    known = {_dotted(path): path for path in parts}
    for name in names:
        if name not in known:
            raise PmqError(f"the model has no output {name!r}; it returns {', '.join(known) or 'a single tensor'}")
    return tuple(known[name] for name in names)


def _dotted(path: tuple[Key, ...]) -> str:
    return ".".join(map(str, path)) or "a tensor"


def _items(output: Any) -> dict[Key, Any]:
    """Return the parts of an output by name or index; empty for a tensor or any other value."""
    if isinstance(output, Mapping):
        return {key if isinstance(key, int) else str(key): value for key, value in output.items()}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    names = getattr(output, "_fields", None)  # of a named tuple
    if isinstance(output, tuple | list):
        return dict(zip(names or range(len(output)), output, strict=True))
    return {}


def tensors_of(output: Any, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Tensor]]:
    """Yield all tensors of an output, each with the path of names or indices that leads to it."""
    if isinstance(output, Tensor):
        yield path, output
    for key, part in _items(output).items():
        yield from tensors_of(part, (*path, key))
