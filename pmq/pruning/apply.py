"""Application of a pruning plan: slices parameters and edits attributes of modules, without changing any ``forward``."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError, one_line
from pmq.core.pruning import PrunedUnit, PruningPlan
from pmq.graph.channels import NONE
from pmq.models.weights import weights_sha256
from pmq.pruning.groups import embedding_group
from pmq.pruning.units import Unit, example, stream_of, units_of

#: attribute names in attention modules: number of heads, width of one head, width of all heads, scale of the products
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "nheads", "heads")
_WIDTH = ("head_dim", "attention_head_size", "head_size", "dim_head", "d_head", "key_dim")
_ALL = ("attn_dim", "all_head_size", "all_head_dim", "inner_dim")
_SCALE = ("scale", "scaling", "softmax_scale")


@torch.no_grad()
def apply_plan(model: nn.Module, plan: PruningPlan, pruned_from: str | None = None) -> nn.Module:
    """Prune ``model`` in place and return it.

    The plan and the hash of the unpruned weights are stored on the model. The hash is computed here, unless ``pruned_from``
    is the hash of the weights before they were changed otherwise (such as rotated).

    Raises:
        PmqError: the plan belongs to another model, or the model is already pruned.
    """
    if plan_of(model) is not None:
        raise PmqError("this model is pruned already; prune the model that it was built from")
    units = {unit.name: unit for unit in units_of(model)}
    for name, pruned in plan.units.items():
        unit = units.get(name)
        if unit is None:
            raise PmqError(
                f"the pruning plan names {name!r}, which this model does not have or which cannot be pruned: the plan belongs to "
                "another model"
            )
        if (unit.kind, unit.size, unit.heads) != (pruned.kind, pruned.size, pruned.heads):
            raise PmqError(
                f"the pruning plan has {pruned.size} channels in {pruned.heads} heads at {name!r}, but this model has "
                f"{unit.size} in {unit.heads}: the plan belongs to another model"
            )
    original_sha256 = pruned_from or weights_sha256(model)
    for name, pruned in plan.units.items():
        if pruned.share < 1:
            cut(model, units[name], pruned)
    annotated: Any = model
    annotated.pruning_plan, annotated.pruned_from = plan, original_sha256
    return model


def plan_of(model: nn.Module) -> PruningPlan | None:
    """Return the plan that a model was pruned with, or None for an unpruned model."""
    plan: PruningPlan | None = getattr(model, "pruning_plan", None)
    return plan


def cut(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    """Remove the channels of a unit of ``model`` that ``pruned`` does not keep, in place."""
    if unit.kind == "embedding":
        _embedding(model, unit, pruned)
        return
    kept = torch.tensor(pruned.indices)
    if unit.kind == "attention":
        _attention(model, unit, pruned, kept)
    for name, channels in unit.makers.items():
        keep_outputs(linear(model, name), (torch.isin(channels, kept) | (channels == NONE)).nonzero()[:, 0])
    keep_inputs(linear(model, unit.last), kept)


def linear(model: nn.Module, name: str) -> nn.Linear:
    """Return the layer ``name`` of a unit, which is linear."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _attention(model: nn.Module, unit: Unit, pruned: PrunedUnit, kept: Tensor) -> None:
    """Update the size attributes of an attention's modules, and slice their parameters and buffers per head or channel."""
    width, heads = unit.size // unit.heads, pruned.kept_heads
    new_width = len(kept) // heads
    if new_width != width:  # attention scales its products by the head width; q compensates for the changed scale
        name, rows = unit.operands[0]
        q = linear(model, name)
        for parameter in (q.weight, *([] if q.bias is None else [q.bias])):
            parameter[rows.reshape(-1)] *= (new_width / width) ** 0.5
    per_head = (kept // width).unique()
    for module in model.get_submodule(unit.owner).modules():
        if isinstance(module, nn.Linear):
            continue
        for names, old, new in ((_HEADS, unit.heads, heads), (_WIDTH, width, new_width), (_ALL, unit.size, len(kept))):
            for attribute in names:
                if getattr(module, attribute, None) == old:
                    setattr(module, attribute, new)
        for attribute in _SCALE:
            value = getattr(module, attribute, None)
            if new_width != width and isinstance(value, float) and math.isclose(value, width**-0.5, rel_tol=1e-6):
                setattr(module, attribute, new_width**-0.5)
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            for size, index in ((unit.size, kept), (unit.heads, per_head)):
                axes = [axis for axis, n in enumerate(tensor.shape) if n == size]
                if size > 1 and len(axes) == 1 and len(index) < size:
                    value = tensor.index_select(axes[0], index.to(tensor.device))
                    setattr(module, name, _parameter(value, tensor) if isinstance(tensor, nn.Parameter) else value)
                    break


def _embedding(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    removed = sorted(set(range(unit.size)) - set(pruned.indices))
    embedding_group(model, unit.name, removed).prune()
    for module in model.modules():  # attributes that hold the width of the stream
        for attribute in ("embed_dim", "num_features", "head_hidden_size", "dim", "out_dim", "output_dim"):
            if getattr(module, attribute, None) == unit.size:
                setattr(module, attribute, len(pruned.indices))


@torch.no_grad()
def check_stream(model: nn.Module) -> None:
    """Check that the residual stream of ``model`` can be narrowed, by halving that of a copy.

    Raises:
        PmqError: the model has no known residual stream, or some module computes with a fixed width.
    """
    stream = stream_of(model)
    reason = "it is no ViT whose patches one layer embeds"
    if stream is not None:
        halved = copy.deepcopy(model)
        try:
            _embedding(halved, stream, PrunedUnit.of("embedding", stream.size, range((stream.size + 1) // 2)))
            halved(example(model))
            return
        except RuntimeError as error:  # shapes do not match
            reason = one_line(error)
    raise PmqError(f"the residual stream of this model cannot be narrowed: {reason}; drop structure 'embedding'")


def keep_outputs(layer: nn.Linear, kept: Tensor) -> None:
    """Keep the outputs ``kept`` of a layer, in place."""
    layer.weight = _parameter(layer.weight[kept], layer.weight)
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias[kept], layer.bias)
    layer.out_features = len(kept)


def keep_inputs(layer: nn.Linear, kept: Tensor) -> None:
    """Keep the inputs ``kept`` of a layer, in place."""
    layer.weight = _parameter(layer.weight[:, kept], layer.weight)
    layer.in_features = len(kept)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.clone(), requires_grad=like.requires_grad)
