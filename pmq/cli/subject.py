"""Creation of the model and its images from flags."""

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
    """Create the model that a source names, or rebuild the pruned model whose file or folder it names."""
    from pmq.cli.recorded import base_of, recorded_flags, run_of
    from pmq.models import create_model
    from pmq.models.prepared import prepare_as, with_output
    from pmq.pipeline.pruned_model import is_pruned_file, load_pruned

    name = source.model
    if name is not None and is_pruned_file(name):
        run = run_of(name)
        of_pruned = ("model_kwargs", "input_size", "img_size", "in_chans", "gp", "output", "mean", "std", "interpolation")
        flags = recorded_flags(run)
        source = source.with_flags({flag: flags.get(flag) for flag in of_pruned})
        module = load_pruned(Path(name), base_of(source, run), _model_arguments(source), source.input_size)
    else:
        module = create_model(
            name,
            source.checkpoint,
            source.num_classes,
            source.pretrained is not False,
            options=_model_arguments(source),
            input_size=source.input_size,
        )
    preprocessing = {"mean": source.mean, "std": source.std, "interpolation": source.interpolation, "crop_pct": source.crop_pct}
    prepare_as(module, preprocessing)
    return module if source.output is None else with_output(module, *source.output.split(","))


def _model_arguments(source: Source) -> dict[str, Any]:
    """Return the further arguments of the function that creates the model."""
    flags = {"img_size": source.img_size, "in_chans": source.in_chans, "global_pool": source.gp}
    return _parse_pairs(source.model_kwargs or ()) | {name: value for name, value in flags.items() if value is not None}


def _parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs; values are Python literals, or strings where they are no literals.

    >>> _parse_pairs(["img_size=384", "act_layer=gelu", "size=(3, 4)"])
    {'img_size': 384, 'act_layer': 'gelu', 'size': (3, 4)}
    """
    from pmq.core import PmqError
    from pmq.core.validation import shown

    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise PmqError(f"--model-kwargs {shown(pair)} is not valid; write KEY=VALUE, such as img_size=384")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            arguments[key] = text
    return arguments


def unpruned_reference(module: nn.Module, source: Source) -> nn.Module | None:
    """Return the unpruned model of a pruned one, or None if it is not available or ``module`` is not pruned."""
    from pmq.core import PmqError
    from pmq.core.progress import message
    from pmq.models import model_info
    from pmq.pruning import plan_of

    if plan_of(module) is None:
        return None
    info, why = model_info(module), "its weights differ"
    try:
        unpruned = open_model(source.with_model(source.base or info.name))
        if model_info(unpruned).weights_sha256 == info.weights_sha256:
            return unpruned.to(next(module.parameters()).device)
    except PmqError as error:
        why = str(error)
    message(f"agreement is measured with the pruned model in FP32, as the unpruned model is not available: {why}")
    return None


def open_subject(source: Source, workers: int, device: str, threads: int | None) -> tuple[nn.Module, Data]:
    """Create the model on its device and open its images.

    Raises:
        PmqError: the device cannot be used.
    """
    import torch

    from pmq.core import PmqError
    from pmq.core.errors import one_line
    from pmq.data import open_data
    from pmq.data.classes import ORDERS, ClassRule
    from pmq.data.image_table import TableKeys
    from pmq.evaluation.order import check_order
    from pmq.models import class_names, model_info
    from pmq.models.float_products import multiply_by_onednn
    from pmq.models.prepared import name_classes

    multiply_by_onednn()
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
