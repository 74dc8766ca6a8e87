"""Cut a graph where a single tensor is alive, so that a forward pass can restart there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from pmq.graph.nodes import shape_of, stack_of
from pmq.graph.operators import aten, packet


@dataclass(frozen=True)
class StageGraph:
    """A part of a graph that takes one tensor and gives one, and the modules that multiply in it."""

    graph: fx.Graph
    modules: tuple[str, ...]


def cut_stages(graph: fx.Graph) -> list[StageGraph]:
    """Cut at every block: where one tensor is alive, and the modules around that place have given or take it as a whole.

    The first stage is what comes before the first block, patch and position embedding. Constants and numbers, such as how
    many images there are, are computed in each stage that needs them.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    fixed = _fixed(graph)
    flow = [node for node in nodes if node not in fixed]
    place = {node: i for i, node in enumerate(flow)}
    last = {node: max((place.get(user, len(flow)) for user in node.users if user not in fixed), default=-1) for node in flow}
    batch = str(shape_of(flow[0])[0])  # type: ignore[index]
    calls = [i for i, node in enumerate(flow) if node.op == "call_module"]
    starts, alive, called = [0], set[fx.Node](), -1
    for i, node in enumerate(flow[: calls[-1]] if calls else []):  # behind the last call there is nothing to restart for
        called = i if node.op == "call_module" else called
        alive = {n for n in (*alive, node) if last[n] > i}
        if len(alive) != 1 or not _is_border(next(iter(alive)), batch):
            continue
        if called >= starts[-1]:
            starts.append(i + 1)
        elif len(starts) == 2:  # what is done to embedded patches before the first block is part of the stem
            starts[1] = i + 1
    parts = [flow[a:b] for a, b in zip(starts, [*starts[1:], len(flow)], strict=True)]
    ends = [_alive_after(part, last, place) for part in parts[:-1]]
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    cuts, given = [], flow[0]
    for part, end in zip(parts, [*ends, result], strict=True):
        cuts.append(_part(part, given, end, fixed))
        given = end
    return cuts


def _alive_after(part: list[fx.Node], last: dict[fx.Node, int], place: dict[fx.Node, int]) -> fx.Node:
    end = place[part[-1]]
    return next(node for node in reversed(part) if last[node] > end)


def _fixed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that give constants or numbers."""
    found: set[fx.Node] = set()
    batch = next(node.meta["val"].shape[0] for node in graph.nodes if node.op == "placeholder")
    for node in graph.nodes:
        inputs = node.all_input_nodes
        counts = packet(node) is aten.sym_size and str(node.meta["val"]) == str(batch)
        if node.op == "get_attr" or counts or (node.op == "call_function" and all(n in found for n in inputs)):
            found.add(node)
    return found


def _is_border(node: fx.Node, batch: str) -> bool:
    """Whether a tensor that is alive alone is one that whole modules hand on, a row for each image."""
    shape = shape_of(node)
    if shape is None or not shape or str(shape[0]) != batch:
        return False
    own = stack_of(node)
    readers = [stack_of(user) for user in node.users if user.op != "output"]
    if not readers:
        return False
    common = _common([own, *readers])
    if len(own) > len(common):  # a module within those around gave it
        return True
    inner = {tuple(stack[: len(common) + 1]) for stack in readers}
    return len(inner) == 1 and all(len(stack) > len(common) for stack in readers)


def _common(stacks: list[list[str]]) -> list[str]:
    shared = []
    for names in zip(*stacks, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return shared


def _part(nodes: list[fx.Node], given: fx.Node, end: Any, fixed: set[fx.Node]) -> StageGraph:
    """A graph of ``nodes`` and the constants and numbers that they need."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {given: graph.placeholder("x")}
    env[given].meta = dict(given.meta)

    def value(node: fx.Node) -> fx.Node:
        if node not in env:
            assert node in fixed, f"{node} is alive beside what a stage is given"
            if packet(node) is aten.sym_size:
                env[node] = graph.call_function(aten.sym_size.int, (env[given], 0))
                env[node].meta = dict(node.meta)
            else:
                env[node] = graph.node_copy(node, value)
        return env[node]

    for node in nodes:
        if node not in env:
            for source in node.all_input_nodes:
                value(source)
            env[node] = graph.node_copy(node, value)
    graph.output(value(end))
    modules = tuple(str(node.target) for node in nodes if node.op == "call_module")
    return StageGraph(graph, modules)
