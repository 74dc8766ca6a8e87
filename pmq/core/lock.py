"""Locks that allow one process at a time in a folder; the system releases a lock when its holder ends in any way."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

from pmq.core.errors import PmqError
from pmq.core.files import check_target, quoted
from pmq.core.progress import message

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Lock on a folder for as long as this object lives; one process may lock a folder several times."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Close the descriptor. In a forked process the lock stays with the parent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


#: locks of this process, by device and inode
_held: WeakValueDictionary[tuple[int, int], Lock] = WeakValueDictionary()


def hold(folder: Path) -> Lock:
    """Lock a folder, creating it if needed.

    Raises:
        PmqError: another process has locked it, or it cannot be created.
    """
    check_target(folder / "file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise PmqError(f"cannot write {quoted(folder)}: {error.strerror}; choose another folder with `out`") from None
    where = status.st_dev, status.st_ino
    lock = _held.get(where)
    if lock is None:
        lock = _held[where] = Lock(_locked(folder))
    return lock


def _locked(folder: Path) -> int | None:
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise PmqError(f"another process works in {quoted(folder)}; wait for its end, or choose another `out`") from None
    except OSError as error:  # some network file systems have no locks
        os.close(descriptor)
        message(f"{quoted(folder)} cannot be locked ({error.strerror}); make sure that no other process writes to it")
        return None
    return descriptor


def _let_go_of_all() -> None:
    for lock in list(_held.values()):
        lock.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=_let_go_of_all
    )  # otherwise processes that read images ahead would keep the lock after a kill
