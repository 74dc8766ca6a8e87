"""Control of freed memory: forward passes request the same large blocks repeatedly."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: smallest block that is mapped separately: as set by this process, or glibc's upper limit
_mapped_from = [2**25]


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed blocks to the system; elsewhere do nothing.

    By default it returns large ones at once, and the next forward pass pays for fresh pages again: on a CPU that costs a
    third of the time of a ViT. This concerns the whole process, so programs call it, not the package on import.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    largest = 2**31 - 1
    _mapped_from[0] = 2**30
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**30) and libc.mallopt(_M_TRIM_THRESHOLD, largest))


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
