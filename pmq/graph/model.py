"""A captured model: a module like any other, that runs its graph stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.graph.nodes import calls_of, is_fixed
from pmq.graph.stages import StageGraph, cut_stages
from pmq.graph.taps import Tapped

Stage = Callable[[Any, Tensor], Tensor]


class Program:
    """What a captured model does: its graph, cut into stages, each a Python function. Copies of a model share it."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph, self.calls = graph, calls_of(graph)
        self.closed = any(n.op == "placeholder" and is_fixed(n.meta["val"].shape[0]) for n in graph.nodes)
        self.cuts: list[StageGraph] = cut_stages(graph)
        self.stages: list[Stage] = [_compiled(cut.graph) for cut in self.cuts]

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self


def _compiled(graph: fx.Graph) -> Stage:
    code = graph.python_code(root_module="self")
    scope = dict(code.globals)
    exec(compile(code.src, "<captured graph>", "exec"), scope)  # source that torch.fx writes of our own graph
    stage: Stage = scope["forward"]
    return stage


class CapturedModel(nn.Module):
    """Runs a captured graph on images ``(B, C, H, W)``; its parameters are called as those of the model it was captured from.

    Args:
        graph: what to compute, with modules in place of all that multiplies.
        modules: these, by name.
        tensors: all others that the graph reads, by name.
        total_macs: multiply-accumulates of the model that it was captured from, for one image; without those that are the
            same for all images, which it does no more.
        once: modules that these were of.
    """

    def __init__(
        self,
        graph: fx.Graph,
        modules: Mapping[str, Tapped],
        tensors: Mapping[str, Tensor],
        total_macs: int = 0,
        once: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.total_macs, self.once = total_macs, once
        for name, module in modules.items():
            self.hold(name, module)
        for node in graph.nodes:
            if node.op == "get_attr":
                _hold(self, str(node.target), tensors[str(node.target)])
        self.program = Program(graph)
        self.eval()

    @property
    def closed(self) -> bool:
        """Whether the graph computes a single image."""
        return self.program.closed

    def hold(self, name: str, module: nn.Module) -> None:
        """Take in a module that a graph calls."""
        parent, _, child = name.rpartition(".")
        _container(self, parent).add_module(child, module)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the model's output."""
        return self.run(images)

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Apply stages ``start`` to ``stop`` (exclusive), to one image after the other where the graph is of a single one."""
        if self.closed and len(x) > 1:
            return torch.cat([self.run(image, start, stop) for image in x.split(1)])
        for stage in self.program.stages[start:stop]:
            x = stage(self, x)
        return x

    def tensor(self, name: str) -> Tensor:
        """A tensor that the graph reads by itself."""
        owner, _, leaf = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(owner), leaf)
        return found

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """Parameters that a stage computes with, in the order in which it meets them."""
        found: dict[int, nn.Parameter] = {}
        for node in self.program.cuts[stage].graph.nodes:
            if node.op == "call_module":
                found |= {id(p): p for p in self.get_submodule(str(node.target)).parameters()}
            elif node.op == "get_attr":
                tensor = self.tensor(str(node.target))
                found |= {id(tensor): tensor} if isinstance(tensor, nn.Parameter) else {}
        return list(found.values())

    @property
    def tapped(self) -> dict[str, Tapped]:
        """All modules that multiply, by name, in the order of the graph."""
        found = {name: self.get_submodule(name) for name in self.program.calls}
        return {name: module for name, module in found.items() if isinstance(module, Tapped)}


def _container(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else []:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _hold(root: nn.Module, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = _container(root, parent)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    elif leaf not in owner._buffers:
        owner.register_buffer(leaf, tensor)
