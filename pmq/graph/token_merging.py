"""Token merging: between two blocks the most similar tokens become their means, and later blocks compute fewer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from operator import getitem
from typing import Any

from torch import fx, nn

from pmq.core.errors import PmqError
from pmq.graph.merge_modules import LogSizes, MergeTokens
from pmq.graph.model import CapturedModel
from pmq.graph.nodes import copied, is_fixed, shape_of, stack_of
from pmq.graph.operators import aten, origin, packet
from pmq.graph.stages import SIZES, stage_ends
from pmq.graph.taps import Attention, TensorTap
from pmq.graph.token_axis import Fewer, Unfollowed, follow_tokens
from pmq.graph.unread_tokens import without_unread_tokens

#: ending of the name of the module that merges tokens behind a block
MERGE = "merge_tokens"


@dataclass(frozen=True)
class MergeableBlock:
    """A block behind which tokens can be merged: the number of tokens there, and the stage of the model that ends there."""

    n_tokens: int
    stage: int


def mergeable_blocks(model: CapturedModel) -> dict[str, MergeableBlock]:
    """Return the blocks of ``model`` behind which tokens can be merged, by name, in order.

    Raises:
        PmqError: no block of the model ends in a sequence of tokens.
    """
    graph, ends = model.program.graph, _block_ends(model.program.graph, model)
    if not ends:
        raise PmqError("no block of this model ends in a plain sequence of tokens (B, N, C), so tokens cannot be merged")
    stages = {node: stage for stage, node in enumerate(stage_ends(graph))}
    return {name: MergeableBlock(int(node.meta["val"].shape[1]), stages[node]) for name, node in ends.items()}


def prefix_tokens(model: CapturedModel) -> int:
    """Return the number of tokens that a model puts in front of the patches of every image: class and register tokens."""
    for node in model.program.graph.nodes:
        if packet(node) is aten.cat and len(shape_of(node) or ()) == 3 and node.args[1:] == (1,):
            parts: Any = node.args[0]
            in_front = itertools.takewhile(lambda part: origin(part).op == "get_attr", parts)
            return sum(int(part.meta["val"].shape[1]) for part in in_front)
    return 0


def merge_tokens(model: CapturedModel, merged: Mapping[str, int], prefix: int) -> CapturedModel:
    """Return a model that merges ``merged[block]`` tokens behind each block, and shares the parameters of ``model``.

    Its last attention answers only the tokens at the front, where nothing reads the others.
    Transforms of the result still follow the channels of ``model``, whose layers are the same.

    Args:
        model: captured model of a plain vision transformer.
        merged: number of tokens to merge by the name of the block.
        prefix: number of tokens at the front that are not merged.

    Raises:
        PmqError: the model has no such block or too few tokens, or computes with tokens in a way that merging would change.
    """
    if any(isinstance(module, TensorTap) for module in model.tapped.values()):
        raise PmqError("tokens are not merged where every tensor has bits, as integers cannot rank them; leave `merge` out")
    known = mergeable_blocks(model)
    unknown = [name for name in merged if name not in known]
    if unknown:
        raise PmqError(f"tokens cannot be merged behind {unknown[0]!r}; this model has the blocks {', '.join(known)}")
    graph = copied(model.program.graph)
    ends = _block_ends(graph, model)
    modules: dict[str, nn.Module] = {name: model.get_submodule(name) for name in model.program.calls}
    size: fx.Node | None = None
    for name in known:
        if merged.get(name, 0):
            size = _merge_behind(graph, modules, name, ends[name], size, merged[name], prefix)
    graph = without_unread_tokens(graph, modules, prefix)
    tensors = {str(n.target): model.tensor(str(n.target)) for n in graph.nodes if n.op == "get_attr"}
    return CapturedModel(graph, modules, tensors, model.total_macs, model.once).structured_as(model)


def _block_ends(graph: fx.Graph, model: CapturedModel) -> dict[str, fx.Node]:
    """Return the nodes of tokens ``(B, N, C)`` that leave a block before the last attention, by the name of the block."""
    ends, place = dict[str, fx.Node](), {node: i for i, node in enumerate(graph.nodes)}
    calls = [n for n in graph.nodes if n.op == "call_module"]
    last = max((place[n] for n in calls if isinstance(model.get_submodule(str(n.target)), Attention)), default=-1)
    for node in [node for node in stage_ends(graph)[1:] if place[node] < last]:
        shape = shape_of(node) or ()
        if len(shape) == 3 and is_fixed(shape[1]) and stack_of(node):
            ends[stack_of(node)[-1]] = node
    return ends


def _merge_behind(
    graph: fx.Graph, modules: dict[str, nn.Module], block: str, end: fx.Node, size: fx.Node | None, count: int, prefix: int
) -> fx.Node:
    """Insert a merging behind the node ``end``, and return the node of the sizes of tokens."""
    value: Any = end.meta["val"]
    n_tokens, most = int(value.shape[1]), (int(value.shape[1]) - prefix) // 2
    if not 0 < count <= most:
        raise PmqError(f"{count} of {n_tokens} tokens cannot be merged behind {block!r}; merge from 1 to {most}")
    q, k, scale = _queries_and_keys(graph, modules, block, end)
    readers, path = list(end.users), f"{block}.{MERGE}"
    modules[path] = MergeTokens(count, prefix, scale)
    with graph.inserting_after(end):
        both = graph.call_module(path, (end, q, k) if size is None else (end, q, k, size))
    with graph.inserting_after(both):
        sizes, tokens = (graph.call_function(getitem, (both, i)) for i in (1, 0))
    fewer = value.new_empty((value.shape[0], n_tokens - count, value.shape[2]))
    both.meta = dict(end.meta) | {"val": (fewer, fewer[..., :1])}
    tokens.meta = dict(end.meta) | {"val": fewer}
    sizes.meta = dict(end.meta) | {"val": fewer[..., :1], SIZES: True}
    for reader in readers:
        reader.replace_input_with(end, tokens)
    try:
        attentions = follow_tokens(graph, {tokens: 1}, Fewer(n_tokens, count, prefix), modules)
    except Unfollowed as error:
        raise PmqError(f"tokens cannot be merged behind {block!r}, because {error}") from None
    for attention in attentions:
        _weigh(graph, modules, attention, sizes)
    return sizes


def _queries_and_keys(graph: fx.Graph, modules: Mapping[str, nn.Module], block: str, end: fx.Node) -> tuple[Any, Any, float]:
    """Return the nodes of queries and keys ``(B, H, N, D)`` of the last attention before ``end``, and the scale of products."""
    before = itertools.takewhile(lambda node: node is not end, graph.nodes)
    calls = [node for node in before if node.op == "call_module" and isinstance(modules[str(node.target)], Attention)]
    shapes = [(shape_of(node.args[0]) or (), shape_of(node.args[1])) for node in calls[-1:]]
    if not shapes or shapes[0][0] != shapes[0][1] or shapes[0][0][2:3] != (end.meta["val"].shape[1],):
        raise PmqError(f"tokens cannot be merged behind {block!r}, because no attention over all of its tokens precedes it")
    attention: Any = modules[str(calls[-1].target)]
    scale = shapes[0][0][3] ** -0.5 if attention.scale is None else attention.scale
    return calls[-1].args[0], calls[-1].args[1], float(scale)


def _weigh(graph: fx.Graph, modules: dict[str, nn.Module], attention: fx.Node, sizes: fx.Node) -> None:
    """Add the logarithm of the sizes of tokens to the logits of an attention, in place of those before."""
    value: Any = sizes.meta["val"]
    if len(attention.args) > 3:
        weights: Any = attention.args[3]
        weights.args = (sizes,)
        weights.meta["val"] = value.mT[:, None]
        return
    path = f"{attention.target}_sizes"
    modules[path] = LogSizes()
    with graph.inserting_before(attention):
        weights = graph.call_module(path, (sizes,))
    weights.meta = dict(attention.meta) | {"val": value.mT[:, None], SIZES: True}
    attention.args = (*attention.args[:3], weights)
