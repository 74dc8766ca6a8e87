"""``python -m tests.campaigns.victim COUNTED OPERATION SIGNAL ARGS``: pmq that sends itself a signal at a file operation.

Writes how many operations there were to the file ``COUNTED``: files opened to be written, renamed, made, removed or cut.
Only those below the working folder are counted. ``OPERATION`` 0 sends nothing. Searches do little of each
step, which makes them short and is no matter of files.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.truncate", "os.rmdir", "os.link", "os.symlink")


def watch(counted: str, operation: int, number: int) -> None:
    """Count operations from here on."""
    folder, seen = Path.cwd(), 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in EVENTS and not (event == "open" and isinstance(given[2], int) and given[2] & WRITING):
            return
        path = given[0]
        if not isinstance(path, str | os.PathLike) or folder not in Path(path).absolute().parents or os.fspath(path) == counted:
            return
        seen += 1
        descriptor = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, str(seen).encode())
        os.close(descriptor)
        if seen == operation:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[3]])
    sys.argv = ["pmq", *sys.argv[4:]]
    if sys.argv[1:2] in (["search"], ["rank"]):
        import pytest

        from tests.shallow import search_little

        search_little(pytest.MonkeyPatch())
    from pmq.cli import main

    main()
