"""Keep freed memory in the process: forward passes ask for the same large blocks over and over."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed blocks to the system; elsewhere do nothing.

    By default it returns large ones at once, and the next forward pass pays for fresh pages again: on a CPU that costs a
    third of the time of a ViT. This concerns the whole process, so programs call it, not the package on import.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    largest = 2**31 - 1
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**30) and libc.mallopt(_M_TRIM_THRESHOLD, largest))
