"""Captured model: a torch module that runs its graph stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pmq.graph.nodes import calls_of, is_fixed
from pmq.graph.stages import SIZES, StageGraph, cut_stages
from pmq.graph.taps import Tapped

Stage = Callable[[Any, Tensor], Tensor]


class Program:
    """Graph of a captured model, cut into stages that are compiled to Python functions; copies of a model share it.

    A program that another process receives runs in the same way, but its graphs are empty: the nodes of a graph describe what
    was traced, which is bound to the process that traced it.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph, self.calls = graph, calls_of(graph)
        self.closed = any(n.op == "placeholder" and is_fixed(n.meta["val"].shape[0]) for n in graph.nodes)
        self.cuts: list[StageGraph] = cut_stages(graph)
        # Between stages, merged tokens and their sizes are one tensor; a graph that has them also runs at once.
        merges = any(SIZES in node.meta for node in graph.nodes)
        codes = [g.python_code(root_module="self") for g in (*(cut.graph for cut in self.cuts), *([graph] if merges else []))]
        self._compile([(code.src, code.globals) for code in codes])

    def _compile(self, sources: list[tuple[str, Mapping[str, Any]]]) -> None:
        functions, n_stages = [_compiled(*source) for source in sources], len(self.cuts)
        self._sources, self.stages = sources, functions[:n_stages]
        self.whole: Stage | None = next(iter(functions[n_stages:]), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __getstate__(self) -> dict[str, Any]:
        cuts = [(cut.modules, cut.reads) for cut in self.cuts]
        return {"calls": self.calls, "closed": self.closed, "cuts": cuts, "sources": self._sources}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.graph, self.calls, self.closed = fx.Graph(), state["calls"], state["closed"]
        self.cuts = [StageGraph(fx.Graph(), modules, reads) for modules, reads in state["cuts"]]
        self._compile(state["sources"])


def _compiled(source: str, names: Mapping[str, Any]) -> Stage:
    scope = dict(names)
    exec(compile(source, "<captured graph>", "exec"), scope)  # source code that torch.fx generates from our own graph
    stage: Stage = scope["forward"]
    return stage


class CapturedModel(nn.Module):
    """Module that runs a captured graph on images ``(B, C, H, W)``; its parameters have the names of the original model's.

    Args:
        graph: lowered graph, in which modules compute all products.
        modules: the modules that it calls, by name.
        tensors: all other tensors that the graph reads, by name.
        total_macs: multiply-accumulates of the original model for one image, without products that are the same for all
            images, which are folded.
        once: names of the modules of these folded products.
    """

    def __init__(
        self,
        graph: fx.Graph,
        modules: Mapping[str, nn.Module],
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
        self._structure = self.program
        self.eval()

    @property
    def closed(self) -> bool:
        """Whether the graph accepts only a single image at a time."""
        return self.program.closed

    @property
    def structure(self) -> fx.Graph:
        """Graph that transforms follow channels through: that of the program, before taps of tensors were inserted."""
        return self._structure.graph

    def structured_as(self, model: CapturedModel) -> CapturedModel:
        """Return this model with the structure of the model that it was made from."""
        self._structure = model._structure
        return self

    def hold(self, name: str, module: nn.Module) -> None:
        """Register a module that a graph calls, under its dotted name."""
        parent, _, child = name.rpartition(".")
        _container(self, parent).add_module(child, module)

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output for images ``(B, C, H, W)``."""
        whole = self.program.whole
        return self.run(images) if whole is None or self.closed else whole(self, images)

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Apply stages ``start`` to ``stop`` (exclusive), image by image where the graph accepts only a single one."""
        if self.closed and len(x) > 1:
            return torch.cat([self.run(image, start, stop) for image in x.split(1)])
        for stage in self.program.stages[start:stop]:
            x = stage(self, x)
        return x

    def tensor(self, name: str) -> Tensor:
        """Return a tensor that a ``get_attr`` node of the graph names."""
        owner, _, leaf = name.rpartition(".")
        value: Tensor = getattr(self.get_submodule(owner), leaf)
        return value

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """Return the parameters of a stage, in the order in which it reads them."""
        parameters: dict[int, nn.Parameter] = {}
        for is_module, name in self.program.cuts[stage].reads:
            if is_module:
                parameters |= {id(p): p for p in self.get_submodule(name).parameters()}
            else:
                tensor = self.tensor(name)
                parameters |= {id(tensor): tensor} if isinstance(tensor, nn.Parameter) else {}
        return list(parameters.values())

    @property
    def tapped(self) -> dict[str, Tapped]:
        """All modules that multiply, by name, in the order of the graph."""
        modules = {name: self.get_submodule(name) for name in self.program.calls}
        return {name: module for name, module in modules.items() if isinstance(module, Tapped)}


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
