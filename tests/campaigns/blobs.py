"""Mutations of bytes, and what may stand where a file should."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random


def mutate_bytes(rng: Random, data: bytes, other: bytes = b"") -> tuple[bytes, str]:
    """Damage bytes as disks, editors and broken transfers do; ``other`` is what pieces may come from."""
    how = rng.choice(["cut", "cut", "flip", "flip", "flip", "byte", "splice", "remove", "repeat", "zero", "insert", "head"])
    n = len(data)
    if n < 4:
        return data + bytes(rng.randrange(256) for _ in range(4)), "four bytes more"
    at = rng.choice([rng.randrange(n), rng.randrange(min(n, 256)), n - 1 - rng.randrange(min(n, 64))])
    length = min(rng.choice([1, 2, 4, 8, 64, 1000, n // 3]), n - at)
    if how == "cut":
        return data[:at], f"cut to {at} of {n} bytes"
    if how == "head":
        return data[at:], f"without the first {at} of {n} bytes"
    if how == "remove":
        return data[:at] + data[at + length :], f"{length} bytes removed at {at}"
    if how == "repeat":
        return data[: at + length] + data[at:], f"{length} bytes repeated at {at}"
    if how == "zero":
        return data[:at] + bytes(length) + data[at + length :], f"{length} bytes zeroed at {at}"
    if how == "insert":
        return data[:at] + rng.randbytes(length) + data[at:], f"{length} random bytes inserted at {at}"
    if how == "splice":
        source = other or data
        start = rng.randrange(len(source))
        piece = source[start : start + max(length, 16)]
        return data[:at] + piece + data[at + len(piece) :], f"{len(piece)} bytes from {start} of another place put at {at}"
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        where = rng.choice([at, rng.randrange(n)])
        changed[where] = changed[where] ^ (1 << rng.randrange(8)) if how == "flip" else rng.randrange(256)
    return bytes(changed), f"{how}s of bytes around {at}"


def displace(rng: Random, path: Path, others: list[Path]) -> str:
    """Put something else where a file was."""
    how = rng.choice(["absent", "empty", "folder", "fifo", "loop", "nowhere", "other", "other", "null", "newline"])
    others = [other for other in others if other.is_file() and other.suffix != path.suffix]
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "newline":
        path.write_bytes(b"\n")
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "nowhere":
        path.symlink_to("no-such-file")
    elif how == "null":
        path.symlink_to("/dev/null")
    elif how == "other" and others:
        chosen = rng.choice(others)
        path.write_bytes(chosen.read_bytes())
        return f"{path.name} replaced by {chosen.name}"
    return f"{path.name} replaced: {how}"
