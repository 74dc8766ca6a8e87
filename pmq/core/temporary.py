"""Temporary files beside what they are to become, and those that killed processes left."""

from __future__ import annotations

import os
import platform
import zlib
from contextlib import suppress
from pathlib import Path

#: how those of this machine begin; elsewhere the numbers of processes are others
_HERE = f".pmq-{zlib.crc32(platform.node().encode()):08x}-"


def aside(path: Path) -> Path:
    """Name this process's temporary file beside ``path``: a short name, for ``path`` may be as long as names can be."""
    return path.with_name(f"{_HERE}{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Remove what processes of this machine had begun to write in a folder when they were killed."""
    for left in folder.glob(f"{_HERE}*.tmp"):
        number = left.name.removeprefix(_HERE).removesuffix(".tmp")
        if number.isdecimal() and not _lives(int(number)):
            with suppress(OSError):
                left.unlink(missing_ok=True)


def _lives(number: int) -> bool:
    if os.name != "posix":  # where asking would be a signal
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
