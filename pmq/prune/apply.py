"""Remove what a plan does not keep: parameters are cut and attributes edited; no ``forward`` is touched."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.pruning import PrunedUnit, PruningPlan
from pmq.models.weights import weights_sha256
from pmq.prune.groups import embedding_group, example
from pmq.prune.units import Unit, prunable_units


@torch.no_grad()
def apply_plan(model: nn.Module, plan: PruningPlan, pruned_from: str | None = None) -> nn.Module:
    """Prune ``model`` in place, and give it; it remembers the plan and the hash of the weights that it had.

    Those are hashed now, unless ``pruned_from`` says what they were before something else was done to them.

    Raises:
        PmqError: the plan is of another model, or the model is pruned already.
    """
    if plan_of(model) is not None:
        raise PmqError("this model is pruned already; prune the one that it was made of")
    units = {unit.name: unit for unit in prunable_units(model, embedding=True)}
    for name, pruned in plan.units.items():
        unit = units.get(name)
        if unit is None:
            raise PmqError(
                f"the pruning plan names {name!r}, which this model does not have or cannot prune: it is of another one"
            )
        if (unit.kind, unit.size, unit.heads) != (pruned.kind, pruned.size, pruned.heads):
            raise PmqError(
                f"the pruning plan has {pruned.size} channels in {pruned.heads} heads at {name!r}, this model {unit.size} in "
                f"{unit.heads}: it is of another one"
            )
    before = pruned_from or weights_sha256(model)
    for name, pruned in plan.units.items():
        if pruned.share < 1:
            _APPLY[pruned.kind](model, units[name], pruned)
    remembering: Any = model
    remembering.pruning_plan, remembering.pruned_from = plan, before
    return model


def plan_of(model: nn.Module) -> PruningPlan | None:
    """Give the plan that a model was pruned by, if it was."""
    plan: PruningPlan | None = getattr(model, "pruning_plan", None)
    return plan


def _hidden(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    mlp: Any = model.get_submodule(unit.name)
    kept = torch.tensor(pruned.indices)
    keep_outputs(mlp.fc1, kept)
    keep_inputs(mlp.fc2, kept)


def _attention(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    attention: Any = model.get_submodule(unit.name)
    kept, width = torch.tensor(pruned.indices), unit.size // unit.heads
    keep_outputs(attention.qkv, torch.cat([third * unit.size + kept for third in range(3)]))
    keep_inputs(attention.proj, kept)
    heads = pruned.kept_heads
    left = len(kept) // heads
    if left != width:  # the products are scaled by the width that a head has; q makes good for that
        q = attention.qkv.weight[: len(kept)], *([] if attention.qkv.bias is None else [attention.qkv.bias[: len(kept)]])
        for part in q:
            part.mul_((left / width) ** 0.5)
        attention.scale = left**-0.5
    attention.num_heads = heads
    for attribute, value in (("head_dim", left), ("attn_dim", len(kept))):
        if hasattr(attention, attribute):
            setattr(attention, attribute, value)
    table = getattr(attention, "relative_position_bias_table", None)
    if table is not None:  # a column for each head
        attention.relative_position_bias_table = _parameter(table[:, (kept // width).unique()], table)


def _embedding(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    removed = sorted(set(range(unit.size)) - set(pruned.indices))
    embedding_group(model, unit.name, removed).prune()
    for module in model.modules():  # what modules remember of the width
        for attribute in ("embed_dim", "num_features", "head_hidden_size", "dim", "out_dim", "output_dim"):
            if getattr(module, attribute, None) == unit.size:
                setattr(module, attribute, len(pruned.indices))


@torch.no_grad()
def check_stream(model: nn.Module) -> None:
    """Try to halve the residual stream of a copy of ``model``.

    Raises:
        PmqError: it has none that is known, or some part of it computes with a width of its own.
    """
    stream = next((unit for unit in prunable_units(model, embedding=True) if unit.kind == "embedding"), None)
    reason = "it is no ViT whose patches one layer embeds"
    if stream is not None:
        halved = copy.deepcopy(model)
        try:
            _embedding(halved, stream, PrunedUnit.of("embedding", stream.size, range((stream.size + 1) // 2)))
            halved(example(model))
            return
        except RuntimeError as error:  # of shapes that do not meet
            reason = one_line(error)
    raise PmqError(f"the residual stream of this model cannot be narrowed: {reason}; drop structure 'embedding'")


_APPLY = {"hidden": _hidden, "attention": _attention, "embedding": _embedding}


def keep_outputs(layer: nn.Linear, kept: Tensor) -> None:
    """Keep some outputs of a layer."""
    layer.weight = _parameter(layer.weight[kept], layer.weight)
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias[kept], layer.bias)
    layer.out_features = len(kept)


def keep_inputs(layer: nn.Linear, kept: Tensor) -> None:
    """Keep some inputs of a layer."""
    layer.weight = _parameter(layer.weight[:, kept], layer.weight)
    layer.in_features = len(kept)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.clone(), requires_grad=like.requires_grad)
