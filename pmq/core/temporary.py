"""Temporary files beside their targets, and the removal of those that killed processes left."""

from __future__ import annotations

import os
import platform
import zlib
from contextlib import suppress
from pathlib import Path

#: prefix of the temporary files of this machine; process numbers of other machines mean nothing here
_HERE = f".pmq-{zlib.crc32(platform.node().encode()):08x}-"


def aside(path: Path) -> Path:
    """Return this process's temporary file beside ``path``; its name is short, because that of ``path`` may be of full length."""
    return path.with_name(f"{_HERE}{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes of this machine left in a folder."""
    for file in folder.glob(f"{_HERE}*.tmp"):
        number = file.name.removeprefix(_HERE).removesuffix(".tmp")
        if number.isdecimal() and not _lives(int(number)):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _lives(number: int) -> bool:
    if os.name != "posix":  # elsewhere the question would be a signal
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
