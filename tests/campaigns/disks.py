"""A file system of a command's own, that can be full or read-only: where the system allows to mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoMount(Exception):
    """The system does not allow to mount."""


@contextmanager
def own_disk(folder: Path) -> Iterator[None]:
    """Mount a file system on a folder, in memory, as long as this lasts."""
    _mount(folder, "size=1g", "-t", "tmpfs", "tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def refit(folder: Path, options: str) -> None:
    """Change the file system that is mounted on a folder: ``size=100k``, ``ro``."""
    _mount(folder, f"remount,{options}")


def used(folder: Path) -> int:
    """Bytes that files of a folder take, in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _mount(folder: Path, options: str, *kind: str) -> None:
    try:
        done = subprocess.run(["mount", "-o", options, *kind, str(folder)], check=False, capture_output=True, text=True)
    except OSError as error:
        raise NoMount(str(error)) from None
    if done.returncode:
        raise NoMount(done.stderr.strip())
