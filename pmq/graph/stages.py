"""Stages of a graph, which is cut where a single tensor is alive, so that a forward pass can restart there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from pmq.graph.nodes import shape_of, stack_of
from pmq.graph.operators import aten, packet

#: key of a node's ``meta`` that marks the sizes of merged tokens ``(B, N, 1)``
SIZES = "sizes"


@dataclass(frozen=True)
class StageGraph:
    """Part of a graph that takes one tensor and returns one.

    Attributes:
        graph: its nodes.
        modules: names of the modules that it calls.
        reads: names of these modules, and of the tensors that it reads besides, in order; ``True`` marks a module.
    """

    graph: fx.Graph
    modules: tuple[str, ...]
    reads: tuple[tuple[bool, str], ...] = ()


def cut_stages(graph: fx.Graph) -> list[StageGraph]:
    """Cut a graph at every block: where one tensor is alive that is the output or the input of whole modules.

    The first stage holds everything before the first block, such as patch and position embeddings. Constants and numbers,
    such as the number of images, are computed in each stage that needs them. Sizes of merged tokens that are alive beside the
    tokens are the last channel of the tensor between two stages.
    """
    parts, ends, fixed = _parts(graph)
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    cuts, start = [], (parts[0][0],)
    for part, end in zip(parts, [*ends, (result,)], strict=True):
        cuts.append(_part(part, start, end, fixed))
        start = end
    return cuts


def stage_ends(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes whose values leave the stages of a graph, except the last."""
    return [end for end, *_ in _parts(graph)[1]]


def _parts(graph: fx.Graph) -> tuple[list[list[fx.Node]], list[tuple[fx.Node, ...]], set[fx.Node]]:
    """Return the nodes of each stage, the nodes alive at the end of each but the last (sizes behind tokens), and the fixed."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    fixed = _fixed(graph)
    flow = [node for node in nodes if node not in fixed]
    place = {node: i for i, node in enumerate(flow)}
    last = {node: max((place.get(user, len(flow)) for user in node.users if user not in fixed), default=-1) for node in flow}
    batch = str(shape_of(flow[0])[0])  # type: ignore[index]
    calls = [i for i, node in enumerate(flow) if node.op == "call_module"]
    starts, alive, called = [0], set[fx.Node](), -1
    for i, node in enumerate(flow[: calls[-1]] if calls else []):  # after the last call a restart saves nothing
        called = i if node.op == "call_module" else called
        alive = {n for n in (*alive, node) if last[n] > i}
        streams = [n for n in alive if SIZES not in n.meta]
        if len(streams) != 1 or len(alive) > 2 or not _is_border(streams[0], batch):
            continue
        if called >= starts[-1]:
            starts.append(i + 1)
        elif len(starts) == 2:  # operators between patch embedding and first block are part of the stem
            starts[1] = i + 1
    parts = [flow[a:b] for a, b in zip(starts, [*starts[1:], len(flow)], strict=True)]
    return parts, [_alive_after(part, flow, last, place) for part in parts[:-1]], fixed


def _alive_after(
    part: list[fx.Node], flow: list[fx.Node], last: dict[fx.Node, int], place: dict[fx.Node, int]
) -> tuple[fx.Node, ...]:
    end = place[part[-1]]
    return tuple(sorted((node for node in flow[: end + 1] if last[node] > end), key=lambda node: SIZES in node.meta))


def _fixed(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose values are constants or numbers."""
    fixed: set[fx.Node] = set()
    batch = next(node.meta["val"].shape[0] for node in graph.nodes if node.op == "placeholder")
    for node in graph.nodes:
        inputs = node.all_input_nodes
        counts = packet(node) is aten.sym_size and str(node.meta["val"]) == str(batch)
        if node.op == "get_attr" or counts or (node.op.startswith("call") and all(n in fixed for n in inputs)):
            fixed.add(node)
    return fixed


def _is_border(node: fx.Node, batch: str) -> bool:
    """Return whether a tensor ``(B, ...)`` is the output or the input of whole modules."""
    shape = shape_of(node)
    if shape is None or not shape or str(shape[0]) != batch:
        return False
    stack = stack_of(node)
    readers = [stack_of(user) for user in node.users if user.op != "output"]
    if not readers:
        return False
    common = _common([stack, *readers])
    if len(stack) > len(common):  # the output of a module that not all readers are in
        return True
    inner = {tuple(reader[: len(common) + 1]) for reader in readers}
    return len(inner) == 1 and all(len(reader) > len(common) for reader in readers)


def _common(stacks: list[list[str]]) -> list[str]:
    shared = []
    for names in zip(*stacks, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return shared


def _unpacked(graph: fx.Graph, received: fx.Node, start: tuple[fx.Node, ...]) -> list[fx.Node]:
    """Return the nodes of a stage's tokens and their sizes in the one tensor that it receives."""
    if len(start) == 1:
        return [received]
    slices = [graph.call_function(aten.slice.Tensor, (received, -1, *ends)) for ends in ((0, -1), (-1, 1 << 62))]
    for node, source in zip(slices, start, strict=True):
        node.meta = dict(source.meta)
    return slices


def _part(nodes: list[fx.Node], start: tuple[fx.Node, ...], end: tuple[Any, ...], fixed: set[fx.Node]) -> StageGraph:
    """Return a graph from ``start`` to ``end`` of ``nodes`` and the constants and numbers that they need."""
    graph = fx.Graph()
    received = graph.placeholder("x")
    received.meta = dict(start[0].meta)
    env = dict(zip(start, _unpacked(graph, received, start), strict=True))

    def value(node: fx.Node) -> fx.Node:
        if node not in env:
            assert node in fixed, f"{node} is alive beside the input of a stage"
            if packet(node) is aten.sym_size:
                env[node] = graph.call_function(aten.sym_size.int, (received, 0))
                env[node].meta = dict(node.meta)
            else:
                env[node] = graph.node_copy(node, value)
        return env[node]

    for node in nodes:
        if node not in env:
            for source in node.all_input_nodes:
                value(source)
            env[node] = graph.node_copy(node, value)
    results = [value(node) for node in end]
    graph.output(results[0] if len(results) == 1 else graph.call_function(aten.cat.default, (results, -1)))
    modules = tuple(str(node.target) for node in nodes if node.op == "call_module")
    reads = tuple((node.op == "call_module", str(node.target)) for node in graph.nodes if node.op in ("call_module", "get_attr"))
    return StageGraph(graph, modules, reads)
