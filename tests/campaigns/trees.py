"""Mutations of what JSON and YAML hold, each of which is said in a few words."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.campaigns.hostile import NUMBERS, RAW, RAW_MARK, TEXTS, TWICE_MARK, value

Place = tuple[Any, ...]


def mutate_tree(rng: Random, tree: Any) -> tuple[Any, str]:
    """Change a copy of a tree in one to three places."""
    tree, said = copy.deepcopy(tree), []
    for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
        place = _draw(rng, tree)
        change = rng.choice(CHANGES)
        old = _at(tree, place)
        new = change(rng, old)
        tree = _put(tree, place, new)
        said.append(f"{'.'.join(map(str, place)) or 'top'}: {change.__name__.strip('_')} {short(old)} -> {short(new)}")
    return tree, "; ".join(said)


def to_json(tree: Any) -> str:
    """Write a tree, with what is marked in it as it stands."""
    text = json.dumps(tree, indent=1).replace(TWICE_MARK, "")
    for number, raw in enumerate(RAW):
        text = text.replace(f'"{RAW_MARK.format(number)}"', raw)
    return text


def short(value: Any, length: int = 60) -> str:
    """A value as a message may have it."""
    text = repr(value)
    for number, raw in enumerate(RAW):
        text = text.replace(RAW_MARK.format(number), raw[:40])
    return text if len(text) <= length else f"{text[:length]}... ({len(text)})"


def _draw(rng: Random, tree: Any) -> Place:
    """A place that is reached by going down; each level is as likely as its parent's."""
    place: Place = ()
    while isinstance(tree, dict | list) and tree and (not place or rng.random() < 0.8):
        step = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        place, tree = (*place, step), tree[step]
    return place


def _at(tree: Any, place: Place) -> Any:
    for step in place:
        tree = tree[step]
    return tree


def _put(tree: Any, place: Place, new: Any) -> Any:
    if not place:
        return None if new is _GONE else new
    parent = _at(tree, place[:-1])
    if new is not _GONE:
        parent[place[-1]] = new
    else:
        del parent[place[-1]]
    return tree


class _Gone:
    def __repr__(self) -> str:
        return "nothing"


_GONE = _Gone()


def _replace(rng: Random, old: Any) -> Any:
    return value(rng)


def _same_type(rng: Random, old: Any) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return rng.choice([rng.choice(NUMBERS), old + 1, old - 1, -old, old * 2, old / 3, old * 1e6])
    if isinstance(old, str):
        return rng.choice([rng.choice(TEXTS), old + rng.choice(TEXTS), old[: len(old) // 2], old.upper(), old[::-1]])
    return _reshape(rng, old)


def _remove(rng: Random, old: Any) -> Any:
    return _GONE


def _change_type(rng: Random, old: Any) -> Any:
    return rng.choice([[old], {"": old}, {str(old)[:50]: old}, str(old), None, [old, old], not old, json.dumps(old)])


def _reshape(rng: Random, old: Any) -> Any:
    """Of a list or mapping: remove, repeat, exchange, rename or add entries."""
    if isinstance(old, list) and old:
        i, j = rng.randrange(len(old)), rng.randrange(len(old))
        return rng.choice([old[:i], [*old, old[i]], old * 3, old[::-1], [*old[:i], value(rng), *old[i:]], [old[j], *old[1:]]])
    if not isinstance(old, dict) or not old:
        return value(rng)
    keys = list(old)
    a, b = rng.choice(keys), rng.choice(keys)
    return rng.choice(
        [
            {k: v for k, v in old.items() if k != a},
            old | {a: old[b], b: old[a]},
            old | {f"{a}{TWICE_MARK}": rng.choice([old[b], value(rng)])},
            {(rng.choice(TEXTS) if k == a else k): v for k, v in old.items()},
            old | {rng.choice([*TEXTS, "unknown", "bits", "name"]): value(rng)},
            dict(list(old.items())[: len(old) // 2]),
            dict(reversed(old.items())),
        ]
    )


CHANGES: tuple[Callable[[Random, Any], Any], ...] = (_replace, _same_type, _same_type, _remove, _change_type, _reshape, _reshape)
