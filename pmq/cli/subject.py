"""Turn flags into a model and its images."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from pmq.data import Data


def open_model(
    model: str | None,
    checkpoint: Path | None,
    num_classes: int | None,
    pretrained: bool,
    model_kwargs: Sequence[str] | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Create a model by its name, or rebuild the pruned one that ``model`` is the file or the folder of."""
    from pmq.api.pruned import is_pruned_file, load_pruned
    from pmq.cli.run import run_of, started_with
    from pmq.models import create_model

    if model is not None and is_pruned_file(model):
        run = run_of(model)
        made = {} if run is None else started_with(run)
        options = _options(model_kwargs or made.get("model_kwargs") or ())
        return load_pruned(Path(model), options=options, input_size=input_size or made.get("input_size"))
    options = _options(model_kwargs or ())
    return create_model(model, checkpoint, num_classes, pretrained, options=options, input_size=input_size)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value``: values are what Python would read, and texts where it would read nothing.

    >>> _options(["img_size=384", "act_layer=gelu", "size=(3, 4)"])
    {'img_size': 384, 'act_layer': 'gelu', 'size': (3, 4)}
    """
    from pmq.core import PmqError
    from pmq.core.validation import shown

    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise PmqError(f"--model-kwargs {shown(pair)} is not KEY=VALUE, such as img_size=384")
        try:
            found[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[key] = text
    return found


def before_pruning(
    module: nn.Module,
    checkpoint: Path | None,
    num_classes: int | None,
    pretrained: bool,
    model_kwargs: Sequence[str] | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module | None:
    """Give the model that a pruned one was made of, if it can be had; nothing for one that is not pruned."""
    from pmq.core import PmqError
    from pmq.core.progress import message
    from pmq.models import model_info
    from pmq.prune import plan_of

    if plan_of(module) is None:
        return None
    info, why = model_info(module), "its weights are others"
    try:
        found = open_model(info.name, checkpoint, num_classes, pretrained, model_kwargs, input_size)
        if model_info(found).weights_sha256 == info.weights_sha256:
            return found.to(next(module.parameters()).device)
    except PmqError as error:
        why = str(error)
    message(f"agreement is with the pruned model in FP32, as the one before pruning is not at hand: {why}")
    return None


def open_subject(
    model: str | None,
    checkpoint: Path | None,
    num_classes: int | None,
    pretrained: bool,
    data: str | None,
    split: str | None,
    crop_pct: float | None,
    workers: int,
    device: str,
    threads: int | None,
    model_kwargs: Sequence[str] | None = None,
    input_size: Sequence[int] | None = None,
) -> tuple[nn.Module, Data]:
    """Create the model on its device and open its images."""
    import torch

    from pmq.core import PmqError
    from pmq.core.errors import one_line
    from pmq.data import open_data
    from pmq.models import model_info

    if threads is not None:
        torch.set_num_threads(threads)
    module = open_model(model, checkpoint, num_classes, pretrained, model_kwargs, input_size)
    images = open_data(data, model_info(module), split, crop_pct, workers)
    try:
        module = module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise PmqError(f"device {device!r} cannot be used: {one_line(error)}; try --device cpu") from None
    return module, images
