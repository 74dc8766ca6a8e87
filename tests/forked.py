"""Commands in processes of their own that have everything imported: ``python -m tests.forked`` forks one for each line it reads.

A command begins seconds earlier than in a new interpreter. Tests of what a new one does start one (``fresh=True``).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.preloaded import preload, preload_default_model


class Forked:
    """A command that runs; ``pid`` is that of its process."""

    def __init__(self, pid: int, args: Sequence[str], answers: IO[str], folder: tempfile.TemporaryDirectory[str]) -> None:
        self.pid, self._args, self._answers, self._folder = pid, args, answers, folder

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and give its status (that of a signal is negative) and what it printed."""
        with self._folder as folder:
            answer = self._answers.readline()
            assert answer, "the process that forks commands died"
            out, err = ((Path(folder) / name).read_text(errors="replace") for name in ("1", "2"))
        return subprocess.CompletedProcess(self._args, int(answer), out, err)


class Forker:
    """Runs commands by a process that forks; it is started by the first and ends with the one who started it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def run(self, module: str, args: Sequence[str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
        """Run ``python -m module args``."""
        return self.start(module, args, cwd).wait()

    def start(self, module: str, args: Sequence[str], cwd: Path | None) -> Forked:
        """Start ``python -m module args``; nothing else can be run before it is waited for."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "tests.forked"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=self._environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder = tempfile.TemporaryDirectory(prefix="pmq-forked-")
        task = {"module": module, "args": list(args), "cwd": str(cwd or Path.cwd()), "streams": folder.name}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()), args, self._process.stdout, folder)


def _become(task: dict[str, object]) -> None:
    """Be the command: streams, folder and arguments are its own."""
    os.chdir(str(task["cwd"]))
    for number in (1, 2):
        descriptor = os.open(f"{task['streams']}/{number}", os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.path[0] = str(task["cwd"])
    sys.argv = ["pmq", *map(str, task["args"])]  # type: ignore[call-overload]
    if task["module"] == "tests.shallow":
        import pytest

        from tests.shallow import search_little

        search_little(pytest.MonkeyPatch())
    from pmq.cli import main

    try:
        main()
    except SystemExit as status:  # leaving as interpreters do would take the memory of the one that forked apart, for seconds
        assert isinstance(status.code, int)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status.code)


def _serve() -> None:
    preload()
    preload_default_model()
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return _become(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    _serve()
