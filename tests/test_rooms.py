"""Nothing imports upwards, and the rooms without torch stay without it."""

from __future__ import annotations

import ast
import re
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
    "optimize": {"core", "cost.cost_model", "cost.latency", "metrics.sensitivity_table"},
    "patches": {"core", "models", "graph", "quant", "metrics"},
    "evaluation": {"core", "models", "quant", "data"},
    "runtimes": {"core", "models", "graph", "quant", "cost"},
    "exports": {"core", "models", "graph", "quant", "runtimes"},
    "reporting": {"core"},
}
ROOMS = set(MAY_IMPORT)
MAY_IMPORT |= {"pipeline": ROOMS, "api": ROOMS | {"pipeline"}, "cli": ROOMS | {"pipeline", "api"}}
MAY_IMPORT |= {"bench": set(MAY_IMPORT) | {"assets"}, "assets": set()}
#: a module named in a string, as importlib takes it; of an f-string, the part before the first value
MODULE = re.compile(r"pmq(\.\w+)+\.?")


def imports(path: Path) -> set[str]:
    """Modules below ``pmq`` that a file imports: by statements anywhere in it, or by strings that name one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names = ["pmq.api" if name == "pmq" else name for name in names]  # through which every verb is reached
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names if node.module == "pmq")]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            names = [node.value.rstrip(".")] if node.value.split(".")[1] in MAY_IMPORT else []
        found |= {n.removeprefix("pmq.") for n in names if n.startswith("pmq.")}
    return found


def test_every_folder_is_a_room_with_rules() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_only_what_it_may(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path} imports pmq.{name}"


def test_strings_that_import_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "lazy.py"
    file.write_text('import_module("pmq.cli.search")\nimport_module(f"pmq.bench.{name}")\n"""See pmq.api.search."""\n')
    assert imports(file) == {"cli.search", "bench"}


def test_no_two_modules_need_each_other() -> None:
    """Not even for types, or later: who reads one of them would have to read all."""
    modules = {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p for p in PACKAGE.rglob("*.py")}
    needs = {name: _modules_imported(path, set(modules)) - {name} for name, path in modules.items()}
    while free := [n for n in needs if not needs[n] & needs.keys() or not any(n in others for others in needs.values())]:
        for name in free:
            del needs[name]
    assert not needs, f"import each other: {', '.join(needs)}"


def _modules_imported(path: Path, modules: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pmq."):
            base = str(node.module).removeprefix("pmq.")
            found |= {full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names}
    return found & modules


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
