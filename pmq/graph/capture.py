"""Capture of a model as one graph of torch's operators, whatever modules it is written in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind

from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message
from pmq.graph.macs import without_fast_path
from pmq.graph.nodes import drop_unread, is_fixed, same_shape
from pmq.graph.operators import aten, functional

#: batch size for tracing: torch would specialise the graph for a batch of one
BATCH = 2
#: operators that are the identity in evaluation mode, as no other reference to the tensor exists
_SAME = (aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.detach, aten.alias, aten.lift_fresh_copy, aten.lift_fresh)
#: operators that only check their operand and return None
_SILENT = (aten._assert_tensor_metadata, aten._assert_async, aten._assert_scalar, aten.sym_constrain_range_for_size)
#: operators that are the identity where their operand already has the resulting shape and type
_IDLE = (aten.to, aten._to_copy, aten.type_as, aten.slice, aten.pad, aten.constant_pad_nd, aten.expand)


def capture(model: nn.Module, image: Tensor) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Capture ``model``, in evaluation mode, as a graph over any number of images like ``image`` ``(1, C, H, W)``.

    If the model's control flow depends on the number of images, the graph computes a single image.

    Returns:
        The graph, whose only placeholder is the batch and whose ``get_attr`` nodes name tensors; and these tensors by name,
        including the model's own parameters and buffers. Operators without an effect in evaluation mode are removed;
        operators that write into their operands are replaced by ones that return new tensors.

    Raises:
        PmqError: the model branches on values of its activations, or calls functions that torch cannot trace.
    """
    program = _exported(model, torch.cat([image] * BATCH))
    if _is_closed(program):
        message(
            f"the forward of model {type(model).__name__} depends on the number of images: images are run one after the other"
        )
        program = _exported(model, image)
    try:
        graph = _as_graph(program)
    except _Written:
        with _quiet(), torch.no_grad():
            graph = _as_graph(program.run_decompositions({}))  # only where needed, as this takes as long as the export
    return graph, _tensors(program)


class _Written(Exception):
    """Raised where an operator writes into a view of a tensor that other nodes read."""


def _as_graph(program: ExportedProgram) -> fx.Graph:
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    for spec, node in zip(program.graph_signature.input_specs, _placeholders(program.graph), strict=True):
        if spec.kind == InputKind.USER_INPUT:
            env[node] = graph.placeholder("image")
        else:
            env[node] = graph.get_attr(str(spec.target))
        env[node].meta = dict(node.meta)
    results = _inline(program.graph_module, env, graph)
    if len(results) != 1:
        raise PmqError(f"the model returns {len(results)} tensors instead of one; choose one with pmq.with_output")
    graph.output(results[0])
    drop_unread(graph)
    return graph


def _is_closed(program: ExportedProgram) -> bool:
    """Return whether a program accepts only the number of images it was captured with."""
    names = set(program.graph_signature.user_inputs)
    return any(is_fixed(node.meta["val"].shape[0]) for node in _placeholders(program.graph) if node.name in names)


def _exported(model: nn.Module, images: Tensor) -> ExportedProgram:
    try:
        with torch.no_grad(), _quiet(), without_fast_path():
            return export(model, (images,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    except Exception as error:  # tracing a user's forward may raise anything
        raise PmqError(
            f"model {type(model).__name__} cannot be captured as a graph{_where(error)}: {one_line(error)}; "
            "its forward must not branch on values of tensors"
        ) from None


def _where(error: BaseException) -> str:
    """Return the file and line of the user's code that raised an error; empty if there is none in the traceback."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/torch/" not in file and "/pmq/" not in file:
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings and log lines of torch's tracer."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch.fx", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _tensors(program: ExportedProgram) -> dict[str, Tensor]:
    constants = {str(name): value for name, value in program.constants.items() if isinstance(value, Tensor)}
    return {**constants, **program.state_dict}


def _inline(module: fx.GraphModule, env: dict[fx.Node, Any], graph: fx.Graph) -> list[Any]:
    """Copy a graph's nodes to the end of ``graph`` and return its results; ``env`` maps its placeholders to values."""
    for node in module.graph.nodes:
        if node.op == "get_attr" and node not in env:
            env[node] = getattr(module, node.target)
        elif node.op == "call_function":
            env[node] = _copied(module, node, env, graph)
        elif node.op == "output":
            results = fx.map_arg(node.args[0], lambda n: env[n])
            return list(results) if isinstance(results, list | tuple) else [results]
    raise AssertionError("a graph without an output")


def _copied(module: fx.GraphModule, node: fx.Node, env: dict[fx.Node, Any], graph: fx.Graph) -> Any:
    """Copy a node, unless it has no effect, and return the value that replaces it."""
    name = getattr(node.target, "__name__", "")
    if name in ("wrap_with_autocast", "wrap_with_set_grad_enabled"):
        arguments = list(node.args)
        inner = next(i for i, a in enumerate(arguments) if isinstance(a, fx.Node) and a.op == "get_attr")
        body: fx.GraphModule = getattr(module, arguments[inner].target)  # type: ignore[union-attr,arg-type]
        operands = [fx.map_arg(a, lambda n: env[n]) for a in arguments[inner + 1 :]]
        return _inline(body, dict(zip(_placeholders(body.graph), operands, strict=True)), graph)
    if name == "getitem" and isinstance(env.get(node.args[0]), list):  # type: ignore[arg-type]
        return env[node.args[0]][node.args[1]]  # type: ignore[index]
    packet = getattr(node.target, "overloadpacket", None)
    if packet in _SILENT:
        return None
    if packet in _SAME or (packet in _IDLE and _idle(node, packet)):
        return env[node.args[0]]  # type: ignore[index]
    out_of_place = functional(node.target)
    new = graph.node_copy(node, lambda n: env[n])
    if packet in (aten.view, aten._unsafe_view) and node.target is not aten.view.dtype:
        new.target = aten.reshape.default  # quantized tensors may have other strides than the traced ones
    if out_of_place is not None:
        new.target = out_of_place
        before = node.args[0]
        assert isinstance(before, fx.Node)
        if _is_seen(before, node):
            raise _Written
        env[before] = new
    return new


def _is_seen(before: fx.Node, node: fx.Node) -> bool:
    """Return whether any later node reads the tensor that ``before``, which ``node`` writes into, is a view of."""
    order = {other: place for place, other in enumerate(node.graph.nodes)}
    while before.op == "call_function" and (getattr(before.target, "is_view", False) or before.target is getitem):
        before = before.args[0]  # type: ignore[assignment]
        if any(order[user] > order[node] for user in before.users):
            return True
    return before.op != "call_function"


def _idle(node: fx.Node, packet: Any) -> bool:
    """Return whether an operator returns its operand unchanged."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or not same_shape(source, node):
        return False
    if packet in (aten.pad, aten.constant_pad_nd):
        return not any(node.args[1])  # type: ignore[arg-type]
    if packet is aten.slice:
        return len(node.args) < 5 or bool(node.args[4] == 1)
    return bool(source.meta["val"].dtype == node.meta["val"].dtype)
