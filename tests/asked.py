"""Options of searches that tests share, put into the groups that :func:`pmq.search` takes them in."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pmq

_GROUPS = {"options": pmq.SearchOptions, "split": pmq.DataSplit, "run": pmq.RunOptions}


def asked(**given: Any) -> dict[str, Any]:
    """Arguments of :func:`pmq.search`; what is an attribute of one of its groups is put into that."""
    grouped: dict[str, Any] = {}
    for group, kind in _GROUPS.items():
        own = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
        if own:
            grouped[group] = kind(**own)
    return grouped | given
