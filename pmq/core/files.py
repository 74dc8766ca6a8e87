"""Files that are read completely and checked, and files that are written atomically by renaming a temporary one."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError, one_line
from pmq.core.parsing import parse_csv, parse_json, parse_yaml
from pmq.core.temporary import aside, sweep
from pmq.core.validation import shown

#: most bytes of a table, of an allocation or other JSON, and of a search space
MOST_CSV, MOST_JSON, MOST_YAML = 1 << 30, 1 << 28, 1 << 18


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; False for names that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def has_content(path: Path) -> bool:
    """Return whether a path is a regular file with at least one byte."""
    return is_file(path) and path.stat().st_size > 0


def is_there(path: Path, what: str) -> bool:
    """Return whether a file exists.

    Raises:
        PmqError: a folder, a pipe or a device is in its place.
    """
    if is_file(path):
        return True
    if is_dir(path) or _is_device(path):
        raise PmqError(f"{what} {quoted(path)} is a folder or a pipe; put the file back")
    return False


def is_dir(path: Path) -> bool:
    """Return whether a path is a folder; False for names that no folder can have."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_device(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def quoted(path: Path | str) -> str:
    """Return a path for a message: quoted, and cut where it is too long to read."""
    return shown(str(path), 250)


def check_target(path: Path) -> Path:
    """Raise, before any work is done, if a file could not be written to ``path``."""
    if any(len(os.fsencode(part)) > 255 for part in path.parts) or len(os.fsencode(path.absolute())) > 4000:
        raise PmqError(f"cannot write {quoted(path)}: its name has more than 255 bytes, or 4000 with its folders; shorten it")
    folder = next((p for p in path.absolute().parents if is_dir(p) or is_file(p)), path.absolute().parent)
    if is_dir(path) or not path.name:
        raise PmqError(f"cannot write {quoted(path)}: it is a folder; name a file")
    if _is_device(path):
        raise PmqError(f"cannot write {quoted(path)}: it is a device or a pipe, which a file would replace; name a file")
    if not is_dir(folder) or not os.access(folder, os.W_OK):
        raise PmqError(f"cannot write {quoted(path)}: {quoted(folder)} is no folder that can be written to; choose another")
    return path


def read_bytes(path: Path, what: str = "file", hint: str = "", most: int | None = None) -> bytes:
    """Read a file.

    Raises:
        PmqError: the file does not exist, is a folder or a pipe, has more than ``most`` bytes, or cannot be read. The message
            calls it ``what``, and ``hint`` says how to obtain it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PmqError(f"{what} {quoted(path)} is a folder or a pipe; name a file")
        if most is not None and status.st_size > most:
            raise PmqError(f"{what} {quoted(path)} has {status.st_size} bytes, which is more than the {most} that are read")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise PmqError(f"{what} {quoted(path)} does not exist{hint}") from None
    except OSError as error:
        raise PmqError(f"{what} {quoted(path)} cannot be read: {error.strerror or one_line(error)}") from None


def read_text(path: Path, what: str = "file", hint: str = "", most: int | None = None) -> str:
    """Read UTF-8 text, with or without a byte order mark; raise as :func:`read_bytes` does, or if it is not UTF-8."""
    try:
        return read_bytes(path, what, hint, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"{what} {quoted(path)} is no readable text: byte {error.start} is no UTF-8"
        raise PmqError(f"{fault}; save it as UTF-8, or create it again") from None


def read_json(path: Path, what: str, hint: str = "", lenient: bool = False) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    ``lenient`` accepts what manifests may contain: file names in any encoding, NaN and infinities.

    Raises:
        PmqError: the file does not exist or holds no JSON object; the message calls it ``what``.
    """
    named = f"{what} {quoted(path)}"
    data = parse_json(read_text(path, what, hint, MOST_JSON), named, lenient)
    if not isinstance(data, dict):
        raise PmqError(f"{named} is no JSON object")
    return data


def read_yaml(path: Path, what: str, hint: str = "") -> dict[str, Any]:
    """Read a YAML file that holds a mapping of names.

    Raises:
        PmqError: the file does not exist or holds no mapping; the message calls it ``what``.
    """
    named = f"{what} {quoted(path)}"
    data = parse_yaml(read_text(path, what, hint, MOST_YAML), named)
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise PmqError(f"{named} is no mapping of keys; see search_spaces/default.yaml")
    return data


def read_csv(path: Path, what: str) -> dict[str, list[str]]:
    """Read the cells of a CSV file, column by column.

    Raises:
        PmqError: the file does not exist, was cut off, or has rows of another length than its header.
    """
    return parse_csv(read_text(path, what, most=MOST_CSV), f"{what} {quoted(path)}")


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically, creating its folder.

    Raises:
        PmqError: the folder cannot be created or written to.
    """
    check_target(path)
    temporary = aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise PmqError(f"cannot write {quoted(path)}: {error.strerror or error}; choose another folder with `out`") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file atomically; bytes of file names that are not UTF-8 are escaped."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_csv(path: Path, frame: Any) -> Path:
    """Write a pandas frame atomically, without its index."""
    return write_text(path, frame.to_csv(index=False))
