"""Plugins by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from pmq.core.errors import PmqError

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """Things of one sort that files of their own add to.

    >>> colours: Registry[int] = Registry("colour")
    >>> colours.add("red", 1)
    >>> colours["red"], list(colours)
    (1, ['red'])
    >>> colours["blue"]
    Traceback (most recent call last):
    pmq.core.errors.PmqError: colour 'blue' is not one of red
    """

    def __init__(self, sort: str) -> None:
        self._sort = sort
        self._items: dict[str, Item] = {}

    def add(self, name: str, item: Item) -> None:
        """Make ``item`` known as ``name``."""
        self._items[name] = item

    def check(self, name: str) -> None:
        """Raise unless ``name`` is known.

        Raises:
            PmqError: it is not; the message lists the names that are.
        """
        if name not in self._items:
            raise PmqError(f"{self._sort} {name!r} is not one of {', '.join(self)}")

    def __getitem__(self, name: str) -> Item:
        self.check(name)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))
