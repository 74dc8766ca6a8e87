"""Node with onnxruntime-web, which the tests of JavaScript run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pmq.core import PmqError
from pmq.runtimes.web.npm import FILES, PACKAGE, web_runtime


def install_runtime(folder: Path) -> None:
    """Put onnxruntime-web where modules in ``folder`` find it; skip the test if Node or npm's registry is not at hand."""
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    try:
        runtime = web_runtime()
    except PmqError as error:
        pytest.skip(str(error))
    package = folder / "node_modules" / PACKAGE
    package.mkdir(parents=True)
    for name in FILES:
        shutil.copy(runtime / name, package / name)
    (package / "package.json").write_text(json.dumps({"name": PACKAGE, "type": "module", "exports": f"./{FILES[0]}"}))


def run_module(file: Path, *arguments: str) -> tuple[int, str]:
    """Run a module with Node; return its exit status and what it prints."""
    done = subprocess.run(["node", str(file), *arguments], cwd=file.parent, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr[-500:]
    return done.returncode, done.stdout
