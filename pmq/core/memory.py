"""Control of freed memory: forward passes request the same large blocks repeatedly."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: smallest block that is mapped separately: as set by this process, or glibc's upper limit
_mapped_from = [2**25]


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed blocks to the system; elsewhere do nothing.

    By default it returns large ones at once, and the next forward pass pays for fresh pages again: on a CPU that costs a
    third of the time of a ViT. All threads share what is kept, as each would keep its own otherwise. This concerns the whole
    process, so programs call it, not the package on import.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    largest = 2**31 - 1
    _mapped_from[0] = 2**30
    settings = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: largest, _M_ARENA_MAX: 1}
    return all(libc.mallopt(name, value) for name, value in settings.items())


def release_freed_memory() -> None:
    """Return what :func:`keep_freed_memory` kept to the system, before a step that needs blocks of other sizes."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Return large blocks to the system as soon as they are freed, for as long as the context lasts.

    Where a little is kept of each of many batches, the little that is kept lies between the blocks that were freed, and
    memory grows with the number of batches though nothing is held.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 2**18)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _mapped_from[0])
