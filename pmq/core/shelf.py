"""Storage of many values in memory as long as there is room, otherwise on disk."""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Iterator, MutableMapping
from itertools import count
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any, TypeVar

from pmq.core.memory_limit import memory_limit, resident_bytes

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
#: share of the limit above which values are on disk: what is computed with them takes memory too
FULL = 0.8


class Shelf(MutableMapping[Key, Value]):
    """Mapping whose values move to a temporary folder when the process holds much of :func:`memory_limit`.

    The limit is the one in force when the shelf was made. A value on disk is read whenever it is asked for, and is a copy: to
    change it, store it again. Results do not depend on where values are.

    >>> shelf: Shelf[str, int] = Shelf()
    >>> shelf["a"] = 1
    >>> shelf["a"], len(shelf), "b" in shelf
    (1, 1, False)
    """

    def __init__(self) -> None:
        self._limit = memory_limit()
        self._values: dict[Key, Value] = {}
        self._files: dict[Key, Path] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._numbers = count()
        self._lock = RLock()  # threads share a shelf, and one of them moves its values

    @property
    def on_disk(self) -> int:
        """Number of values that are on disk."""
        return len(self._files)

    def _is_full(self) -> bool:
        """Return whether values belong on disk, and move those that are in memory there."""
        limited = isfinite(self._limit)  # without a limit nothing is read from the system at each access
        if limited and self._folder is None and resident_bytes() > FULL * self._limit:
            self._folder = TemporaryDirectory(prefix="pmq-")
        if self._folder is not None and self._values:
            for key in list(self._values):
                self._write(key, self._values.pop(key))
        return self._folder is not None

    def _write(self, key: Key, value: Value) -> None:
        assert self._folder is not None
        if key not in self._files:
            self._files[key] = Path(self._folder.name) / f"{next(self._numbers)}.pickle"
        with self._files[key].open("wb") as file:
            pickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)

    def __setitem__(self, key: Key, value: Value) -> None:
        with self._lock:
            if self._is_full():
                self._write(key, value)
            else:
                self._values[key] = value

    def __getitem__(self, key: Key) -> Value:
        with self._lock:
            if self._is_full():
                with self._files[key].open("rb") as file:
                    value: Value = pickle.load(file)
                return value
            return self._values[key]

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._values or key in self._files

    def __delitem__(self, key: Key) -> None:
        if key in self._files:
            self._files.pop(key).unlink()
        else:
            del self._values[key]

    def __iter__(self) -> Iterator[Key]:
        return iter([*self._values, *self._files])

    def __len__(self) -> int:
        return len(self._values) + len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self._limit, "values": dict(self)}  # files of this process may not be there for another one

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._limit, self._values = state["limit"], state["values"]
