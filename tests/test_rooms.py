"""Nothing imports upwards, and the rooms without torch stay without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pmq"
MAY_IMPORT = {
    "core": set(),
    "models": {"core"},
    "graph": {"core", "models"},
    "data": {"core", "models"},
    "quant": {"core", "models", "graph", "data"},
    "pruning": {"core", "models", "graph"},
    "cost": {"core", "models"},
    "metrics": {"core", "graph", "quant"},
    "optimize": {"core", "cost.table", "cost.latency", "metrics.table"},
    "patches": {"core", "models", "graph", "quant", "metrics"},
    "evaluation": {"core", "quant", "data"},
    "runtimes": {"core", "models", "graph", "quant", "cost"},
    "reporting": {"core"},
}
ROOMS = set(MAY_IMPORT)
MAY_IMPORT |= {"pipeline": ROOMS, "api": ROOMS | {"pipeline"}, "cli": ROOMS | {"pipeline", "api"}}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found |= {n.removeprefix("pmq.") for n in names if n.startswith("pmq.")}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_only_what_it_may(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports pmq.{name}"


@pytest.mark.parametrize("module", ["pmq", "pmq.core", "pmq.optimize", "pmq.cost", "pmq.reporting", "pmq.cli"])
def test_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_room_is_packaged_with_its_files() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(PACKAGE.parent / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"pmq.search_spaces"}
    assert config["options"]["package_dir"].strip() == "pmq.search_spaces = search_spaces"


def test_the_order_of_tests_names_files_that_exist() -> None:
    from conftest import LONG

    assert all((PACKAGE.parent / "tests" / name).is_file() for name in LONG)
