"""Groups of flags that several commands share: a command takes them as one parameter, whose fields are the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, get_type_hints

from pmq.cli.cluster import Cluster
from pmq.cli.source import Source

#: classes of groups, and the fields that are arguments instead of options
_GROUPS: dict[type, frozenset[str]] = {Source: frozenset({"model"}), Cluster: frozenset()}


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Expand a command's parameters of type :class:`Source` and :class:`Cluster` into one option per field."""
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind = parameter.annotation
        if kind not in _GROUPS:
            parameters.append(parameter)
            continue
        hints = get_type_hints(kind, include_extras=True)
        options = [field for field in fields(kind) if field.name not in _GROUPS[kind]]
        parameters += [parameter.replace(name=f.name, annotation=hints[f.name], default=f.default) for f in options]
        groups[name] = kind, [field.name for field in options]

    @wraps(command)
    def with_groups(**arguments: Any) -> Any:
        built = {name: kind(**{option: arguments.pop(option) for option in options}) for name, (kind, options) in groups.items()}
        return command(**arguments, **built)

    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups
