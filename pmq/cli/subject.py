"""Turn flags into a model and its images."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from pmq.cli.source import Source
    from pmq.data import Data


def open_model(source: Source) -> nn.Module:
    """Create a model by its name, or rebuild the pruned one that the name is the file or the folder of."""
    from pmq.cli.run import base_of, run_of, started_with
    from pmq.models import create_model
    from pmq.models.prepared import prepare_as, with_output
    from pmq.pipeline.pruned_model import is_pruned_file, load_pruned

    name = source.model
    if name is not None and is_pruned_file(name):
        run = run_of(name)
        own = ("model_kwargs", "input_size", "img_size", "in_chans", "gp", "output", "mean", "std", "interpolation")
        made = started_with(run)
        source = source.with_flags({flag: made.get(flag) for flag in own})
        module = load_pruned(Path(name), base_of(source, run), _made_with(source), source.input_size)
    else:
        module = create_model(
            name,
            source.checkpoint,
            source.num_classes,
            source.pretrained is not False,
            options=_made_with(source),
            input_size=source.input_size,
        )
    told = {"mean": source.mean, "std": source.std, "interpolation": source.interpolation, "crop_pct": source.crop_pct}
    prepare_as(module, told)
    return module if source.output is None else with_output(module, *source.output.split(","))


def _made_with(source: Source) -> dict[str, Any]:
    """Further arguments of what makes the model."""
    own = {"img_size": source.img_size, "in_chans": source.in_chans, "global_pool": source.gp}
    return _options(source.model_kwargs or ()) | {name: value for name, value in own.items() if value is not None}


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


def before_pruning(module: nn.Module, source: Source) -> nn.Module | None:
    """Give the model that a pruned one was made of, if it can be had; nothing for one that is not pruned."""
    from pmq.core import PmqError
    from pmq.core.progress import message
    from pmq.models import model_info
    from pmq.pruning import plan_of

    if plan_of(module) is None:
        return None
    info, why = model_info(module), "its weights are others"
    try:
        found = open_model(source.of(source.base or info.name))
        if model_info(found).weights_sha256 == info.weights_sha256:
            return found.to(next(module.parameters()).device)
    except PmqError as error:
        why = str(error)
    message(f"agreement is with the pruned model in FP32, as the one before pruning is not at hand: {why}")
    return None


def open_subject(source: Source, workers: int, device: str, threads: int | None) -> tuple[nn.Module, Data]:
    """Create the model on its device and open its images."""
    import torch

    from pmq.core import PmqError
    from pmq.core.errors import one_line
    from pmq.data import open_data
    from pmq.data.classes import ORDERS, ClassRule
    from pmq.data.table import TableKeys
    from pmq.evaluation.order import check_order
    from pmq.models import class_names, model_info
    from pmq.models.prepared import name_classes

    if threads is not None:
        torch.set_num_threads(threads)
    module = open_model(source)
    rule = ClassRule(tuple(class_names(module)), source.class_map, source.class_order or ORDERS[0])
    columns = TableKeys(source.input_key, source.target_key)
    images = open_data(source.images, model_info(module), source.split, source.crop_pct, workers, rule, columns)
    classes = images.evaluation.classes
    if classes is not None:
        name_classes(module, classes.names)
        check_order(module, images.evaluation)
    try:
        module = module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise PmqError(f"device {device!r} cannot be used: {one_line(error)}; try --device cpu") from None
    return module, images
