import os
import subprocess
import sys
from pathlib import Path

from pmq.core.files import write_text
from pmq.core.temporary import aside


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = aside(tmp_path / "a").name
    names = [own.replace(str(os.getpid()), str(number)) for number in (dead.pid, os.getppid())]
    others = [names[1], ".pmq-00000000-1.tmp", "notes.tmp", f"{own[:14]}x.tmp"]
    for name in (names[0], *others):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a", *others}
    assert (tmp_path / "a").read_text() == "whole"
