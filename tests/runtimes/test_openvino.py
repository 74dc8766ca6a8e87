"""OpenVINO beside signals, which are handled on a stack that its CPU plugin allocates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes.test_foreign_files import saved, tiny

pytest.importorskip("openvino")

#: Sessions come and go, as a profile's do; then memory is used again and a signal comes.
SCRIPT = """
import gc, signal, sys
from pathlib import Path
from pmq.runtimes import TARGETS

class Came(Exception):
    pass

def handle(*_):
    raise Came

sessions = [TARGETS["openvino"].session(Path(sys.argv[1])) for _ in range(2)]
del sessions[0]
sessions.append(TARGETS["openvino"].session(Path(sys.argv[1])))
while sessions:
    del sessions[0]
    gc.collect()
held = [bytearray(12_000) for _ in range(1_000)]
signal.signal(signal.SIGINT, handle)
try:
    signal.raise_signal(signal.SIGINT)
except Came:
    print("answered")
"""


def test_signals_are_answered_after_sessions_have_gone(tmp_path: Path) -> None:
    model = str(saved(tiny("openvino"), tmp_path / "m.onnx"))
    done = subprocess.run([sys.executable, "-c", SCRIPT, model], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "answered\n"), done.stderr
