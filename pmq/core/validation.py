"""Validation of foreign data against types, with the first fault reported in one line."""

from __future__ import annotations

import reprlib
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from pmq.core.errors import PmqError

Model = TypeVar("Model")
#: adapters by type, because they take long to build
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
#: most characters of a place, and of a rule, in a message
_MOST_PLACE, _MOST_RULE = 160, 240


def shown(value: object, most: int = 80) -> str:
    """Return a value for a message, in one line of about ``most`` characters, however large it is.

    >>> shown([1.5] * 1000), len(shown("x" * 10**6))
    ('[1.5, 1.5, 1.5, 1.5, ...]', 80)
    """
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 4
    short.maxlevel = 3
    short.maxstring = short.maxother = short.maxlong = most
    return _cut(short.repr(value), most)


def validated(cls: type[Model], data: Any, what: str) -> Model:
    """Convert ``data`` to a ``cls``; the first fault is reported in one line with place, rule and value, in this order."""
    try:
        model: Model = _adapter(cls).validate_python(data)
        return model
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = _cut(".".join(str(part) for part in first["loc"]) or "top level", _MOST_PLACE)
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(_fields_at(cls, first["loc"][:-1]))
            raise PmqError(f"{what}: {place}: unknown key; allowed here are {allowed}") from None
        rule = _cut(first["msg"].removeprefix("Value error, "), _MOST_RULE)
        raise PmqError(f"{what}: {place}: {rule}; found {shown(first['input'])}") from None


def _adapter(cls: Any) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _cut(text: str, most: int) -> str:
    """Return one line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _fields_at(cls: Any, location: tuple[int | str, ...]) -> list[str]:
    """Name the fields of the model found by walking ``location``; the outermost ones where the walk ends early."""
    for step in location:
        field = cls.model_fields.get(str(step))
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        models = [a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)]
        cls = models[0] if models else cls
    return list(cls.model_fields)
