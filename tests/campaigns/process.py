"""A command as a process of its own, with what happens to it: a signal at some moment, a full disk, a closed pipe."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: seconds after which a command is said to hang
LONGEST = 600.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str
    seconds: float
    operations: int = 0


def environment() -> dict[str, str]:
    """One thread, so that figures are the same to the byte whatever else runs; modules from this checkout."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": "1", "PMQ_PROGRESS": "0", "PYTHONPATH": path}


def run(
    line: list[str],
    folder: Path,
    *,
    number: signal.Signals = signal.SIGTERM,
    after: float | None = None,
    operation: int = 0,
    largest: int | None = None,
    stdout: int = subprocess.PIPE,
) -> Ended:
    """Run a command in a folder until it ends.

    Args:
        line: what follows ``pmq``.
        folder: where.
        number: signal that it is sent,
        after: so many seconds after its start; others than SIGKILL not before it listens to them,
        operation: or at this one of its file operations.
        largest: bytes that a file may have, as on a disk that is nearly full.
        stdout: where its output goes.
    """
    counted = folder.with_name(f"{folder.name}.operations")
    command = [sys.executable, "-m", "tests.campaigns.victim", str(counted), str(operation), number.name, *line]
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=_limited(largest),
    )
    if after is not None:
        _send(process, number, start + after)
    try:
        out, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err = f"{err}\nhang, more than {LONGEST:.0f} s"
    operations = int(counted.read_text() or 0) if counted.is_file() else 0
    return Ended(process.returncode, out or "", err, time.monotonic() - start, operations)


def _limited(largest: int | None) -> Callable[[], None] | None:
    return None if largest is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def _send(process: subprocess.Popen[str], number: signal.Signals, moment: float) -> None:
    while process.poll() is None:
        if time.monotonic() >= moment and (number == signal.SIGKILL or listens(process.pid, moment + 30)):
            process.send_signal(number)
            return
        time.sleep(0.002)


def listens(pid: int, latest: float) -> bool:
    """Whether a process handles SIGTERM by now; true after ``latest``, whatever it does."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), -1)
    return bool(caught >> (signal.SIGTERM - 1) & 1) or time.monotonic() > latest
