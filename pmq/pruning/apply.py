"""Remove what a plan does not keep: parameters are cut and attributes edited; no ``forward`` is touched."""

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

#: what attentions call the number of their heads, the width of one, that of all, and the factor of products
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "nheads", "heads")
_WIDTH = ("head_dim", "attention_head_size", "head_size", "dim_head", "d_head", "key_dim")
_ALL = ("attn_dim", "all_head_size", "all_head_dim", "inner_dim")
_SCALE = ("scale", "scaling", "softmax_scale")


@torch.no_grad()
def apply_plan(model: nn.Module, plan: PruningPlan, pruned_from: str | None = None) -> nn.Module:
    """Prune ``model`` in place, and give it; it remembers the plan and the hash of the weights that it had.

    Those are hashed now, unless ``pruned_from`` says what they were before something else was done to them.

    Raises:
        PmqError: the plan is of another model, or the model is pruned already.
    """
    if plan_of(model) is not None:
        raise PmqError("this model is pruned already; prune the one that it was made of")
    units = {unit.name: unit for unit in units_of(model)}
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
            cut(model, units[name], pruned)
    remembering: Any = model
    remembering.pruning_plan, remembering.pruned_from = plan, before
    return model


def plan_of(model: nn.Module) -> PruningPlan | None:
    """Give the plan that a model was pruned by, if it was."""
    plan: PruningPlan | None = getattr(model, "pruning_plan", None)
    return plan


def cut(model: nn.Module, unit: Unit, pruned: PrunedUnit) -> None:
    """Keep of a unit of ``model`` what ``pruned`` does, in place."""
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
    """The linear layer of a name, which units name no others of."""
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _attention(model: nn.Module, unit: Unit, pruned: PrunedUnit, kept: Tensor) -> None:
    """Change what modules of an attention remember, and what they hold for each head or channel."""
    width, heads = unit.size // unit.heads, pruned.kept_heads
    left = len(kept) // heads
    if left != width:  # the products are scaled by the width that a head has; q makes good for that
        name, rows = unit.operands[0]
        q = linear(model, name)
        for part in (q.weight, *([] if q.bias is None else [q.bias])):
            part[rows.reshape(-1)] *= (left / width) ** 0.5
    per_head = (kept // width).unique()
    for module in model.get_submodule(unit.owner).modules():
        if isinstance(module, nn.Linear):
            continue
        for names, old, new in ((_HEADS, unit.heads, heads), (_WIDTH, width, left), (_ALL, unit.size, len(kept))):
            for attribute in names:
                if getattr(module, attribute, None) == old:
                    setattr(module, attribute, new)
        for attribute in _SCALE:
            value = getattr(module, attribute, None)
            if left != width and isinstance(value, float) and math.isclose(value, width**-0.5, rel_tol=1e-6):
                setattr(module, attribute, left**-0.5)
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
    stream = stream_of(model)
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
