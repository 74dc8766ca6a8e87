"""Whether a folder holds what an undisturbed command left, to the byte but for what was timed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

#: keys and columns of what is measured by a clock, or tells how it was called
TIMED = re.compile(
    r"seconds|(^|_)(ms|s)$|latency|images_per_s|resumed|passes|fingerprint|spread|^line$|sha256|^files$|passed|found|proof|status"
)


def timeless(path: Path) -> Any:
    """What a file says, without what was timed."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return _without(json.loads(data))
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(data.decode())))
        kept = [i for i, name in enumerate(rows[0]) if not TIMED.search(name)]
        return [[row[i] for i in kept] for row in rows]
    if path.name == "journal.jsonl":
        return sorted(_keys(path))
    return data


def _without(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without(of) for key, of in tree.items() if not TIMED.search(key)}
    return [_without(of) for of in tree] if isinstance(tree, list) else tree


def _keys(journal: Path) -> list[str]:
    return [json.loads(line)["key"] for line in journal.read_bytes().splitlines()]


def files(folder: Path) -> dict[str, Path]:
    """Files below a folder by their names."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


class Reference:
    """What two undisturbed runs left: what they have in common a disturbed one must have as well.

    Args:
        one, other: their folders.
        exact: patterns of what must be the same to the byte.
    """

    def __init__(self, one: Path, other: Path, exact: tuple[str, ...]) -> None:
        self.folder, self.names = one, set(files(one))
        second = files(other)
        self.faults = [f"{name} is written in one run and not in another" for name in self.names ^ set(second)]
        self.how: dict[str, str] = {}
        for name in sorted(self.names & set(second)):
            if (one / name).read_bytes() == second[name].read_bytes():
                self.how[name] = "bytes"
            else:
                self.how[name] = "timeless" if _alike(one / name, second[name]) else "there"
        self.faults += [f"{n} differs between runs" for n in exact if self.how.get(n) != "bytes"]

    def differences(self, folder: Path) -> Iterator[str]:
        """Name what is missing, other, or should not be there."""
        found = files(folder)
        for name in sorted(set(found) - self.names):
            yield f"{name} is left over" if fnmatch(name, "*.tmp") else f"{name} is there as well"
        for name in sorted(self.names - set(found)):
            yield f"{name} is missing"
        for name in sorted(self.names & set(found)):
            mine, how = self.folder / name, self.how.get(name, "there")
            if how == "bytes" and _told(mine) != _told(found[name]):
                yield f"{name} is not the same to the byte"
            elif how == "timeless" and not _alike(mine, found[name]):
                yield f"{name} is not the same, but for what was timed"


def _told(path: Path) -> Any:
    """What a file holds; of a journal its lines, whose order is no matter: a search that Ctrl-C ended early has judged its
    result before what it measures when it is resumed.
    """
    data = path.read_bytes()
    return sorted(data.splitlines(keepends=True)) if path.name == "journal.jsonl" else data


def _alike(one: Path, other: Path) -> bool:
    try:
        return bool(timeless(one) == timeless(other))
    except (ValueError, KeyError, IndexError):  # half written
        return False


def lost_and_doubled(before: bytes, journal: Path) -> tuple[int, int]:
    """Count measurements that a journal had ``before`` and has no more, and those it has twice."""
    after = journal.read_bytes() if journal.is_file() else b""
    whole, now = (data[: data.rfind(b"\n") + 1].splitlines() for data in (before, after))
    keys = [json.loads(line)["key"] for line in now]
    return len(set(whole) - set(now)), len(keys) - len(set(keys))
