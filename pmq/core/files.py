"""Files that are whole or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically, making its folder.

    Raises:
        PmqError: the folder cannot be made or written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise PmqError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another folder with --out") from None
    finally:
        if temporary.exists():
            temporary.unlink()
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file atomically."""
    return write_bytes(path, text.encode())


def write_csv(path: Path, frame: Any) -> Path:
    """Write a pandas frame atomically, without its index."""
    return write_text(path, frame.to_csv(index=False))
