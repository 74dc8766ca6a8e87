"""Files that are whole or absent: written to a temporary name, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError, one_line


def check_target(path: Path) -> Path:
    """Raise, before any work is done, if a file could not be written to ``path``."""
    folder = next((p for p in path.absolute().parents if p.exists()), path.absolute().parent)
    if path.is_dir() or not path.name:
        raise PmqError(f"cannot write {str(path)!r}: it is a folder; name a file")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PmqError(f"cannot write {str(path)!r}: {str(folder)!r} is no folder that can be written to; choose another")
    return path


def read_json(path: Path, what: str, hint: str = "") -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        PmqError: there is none, or it is something else; the message calls it ``what``.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PmqError(f"{what} {str(path)!r} does not exist{hint}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PmqError(f"{what} {str(path)!r} is no readable JSON: {error}") from None
    if not isinstance(data, dict):
        raise PmqError(f"{what} {str(path)!r} is no JSON object")
    return data


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        PmqError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PmqError(f"{str(path)!r} cannot be read: {one_line(error)}") from None


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically, making its folder.

    Raises:
        PmqError: the folder cannot be made or written to.
    """
    check_target(path)
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
