"""Construction of a captured model from a module: capture, lower products to modules, fold; graphs are cached."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from pmq.core.component import Inventory
from pmq.graph.capture import capture
from pmq.graph.constants import Constants
from pmq.graph.fingerprint import ModuleCache, fingerprint
from pmq.graph.inventory import take_inventory
from pmq.graph.lower import lower
from pmq.graph.macs import count_macs
from pmq.graph.model import CapturedModel
from pmq.graph.nodes import copied
from pmq.graph.norms import fold_batch_norms


@dataclass(frozen=True)
class _Known:
    """A cached graph, the tensors it reads that the module does not name, and its multiply-accumulates for one image."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    total_macs: int


_KNOWN = ModuleCache[_Known]()


def captured(model: nn.Module, image: Tensor) -> CapturedModel:
    """Capture ``model`` for images like ``image`` ``(1, C, H, W)``.

    The captured model shares all parameters that capturing does not change.
    """
    graph, tensors, total = _traced(model, image)
    modules = lower(graph, tensors)
    folded, once = Constants(graph, tensors).fold_products()
    tensors = {**tensors, **folded}
    fold_batch_norms(graph, tensors, modules)
    macs = total - sum(product_macs for _, product_macs in once)
    return CapturedModel(graph, modules, tensors, macs, tuple(dict.fromkeys(path for path, _ in once)))


def _traced(model: nn.Module, image: Tensor) -> tuple[fx.Graph, dict[str, Tensor], int]:
    """Return a graph, the tensors that it names, and multiply-accumulates for one image.

    The module is traced only if no module with the same fingerprint was traced before. The caller may change the graph.
    """
    key = fingerprint(model, image)
    known = _KNOWN.get(key)
    if known is not None:
        tensors = {**known.constants, **dict(model.named_buffers()), **dict(model.named_parameters())}
        return copied(known.graph), tensors, known.total_macs
    graph, tensors = capture(model, image)
    total = count_macs(model, image)
    named = model.state_dict(keep_vars=True).keys()
    _KNOWN.put(key, _Known(copied(graph), {n: t for n, t in tensors.items() if n not in named}, total))
    return graph, tensors, total


def analyse(model: nn.Module, image: Tensor) -> tuple[CapturedModel, Inventory]:
    """Capture ``model`` for images like ``image`` ``(1, C, H, W)`` and list its components."""
    graph = captured(model, image)
    return graph, take_inventory(graph, image)
