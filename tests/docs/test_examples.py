"""Every example of the documentation: Python is run, command lines are parsed, targets of make are looked up.

Expensive verbs run once for all pages, on few images and with few steps, and later calls get the same result; their
arguments are bound to the real signatures and budgets and spaces are read, so that an example with a wrong one fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import pmq
from pmq.cli import app
from pmq.core import Budget
from pmq.data import open_data
from pmq.models import model_info
from pmq.optimize import read_space
from tests.conftest import ROOT
from tests.shallow import few_bits, shallow_searches

README = Path(ROOT) / "README.md"
PAGES = [README, *sorted(path for path in (Path(ROOT) / "docs").rglob("*.md") if "results" not in path.parts)]
#: titles of blocks of other tools, and the package that runs them
TOOLS = {
    "MCT": "model_compression_toolkit",
    "ModelOpt": "modelopt",
    "NNCF": "nncf",
    "AIMET": "aimet_torch",
    "Torch-Pruning": "torch_pruning",
    "aimet_onnx": "aimet_onnx",
    "torchao": "torchao",
    "coremltools": "coremltools",
}
#: pages of formats that another tool reads, with that tool's title, the format, and the file that the page writes
EXPORTS = {
    "docs/going-to/aimet.md": ("aimet_onnx", "aimet", "model.encodings"),
    "docs/going-to/nncf.md": ("NNCF", "nncf", "model-nncf.json"),
    "docs/going-to/modelopt.md": ("ModelOpt", "modelopt", "model-modelopt.yaml"),
    "docs/going-to/torchao.md": ("torchao", "torchao", "model-torchao.json"),
    "docs/going-to/coreml.md": ("coremltools", "coreml", "model.mlpackage"),
}
#: pages that read a run which another page writes
READS = {"docs/schema.md": "runs/first"}
#: pages whose Python blocks and commands are run by another test
TESTED_ELSEWHERE = {"docs/your-own-model.md": "tests/cli/test_own_model.py"}
FENCE = re.compile(r"^( *)```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its page, language, title and text."""

    page: str
    line: int
    language: str
    title: str
    text: str


def _blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        indent, language, title, code = fence.groups()
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        yield Block(str(path.relative_to(ROOT)), text[: fence.start()].count("\n") + 1, language, title or "", code)


BLOCKS = [block for path in PAGES for block in _blocks(path)]
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language == "python"} - set(TESTED_ELSEWHERE))
COMMANDS = [
    (f"{block.page}:{block.line}", line.strip())
    for block in BLOCKS
    if block.language in ("sh", "bash")
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines()
]


@pytest.fixture(scope="module")
def embedded() -> dict[str, Any]:
    """The names that pages take for granted: a model, images for a search, further images, and batches with labels."""
    model = pmq.create_model()
    data = open_data(None, model_info(model))
    calibration = data.calibration_images(128, seed=0)
    loader = list(data.evaluation.batches(16, range(32)))
    names: dict[str, Any] = {"images": calibration[:96], "unseen": calibration[96:], "loader": loader}
    return names | {"batches": [calibration[:96]], "labelled_batches": loader}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all pages run, so that pages may read the runs of others."""
    return tmp_path_factory.mktemp("pages")


class SharedVerbs:
    """The verbs of pmq, cheap: each expensive one runs once per distinct result, and copies are handed out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._results: dict[tuple[Any, ...], Any] = {}
        self.real: dict[str, Callable[..., Any]] = {
            name: getattr(pmq, name) for name in ("search", "evaluate", "deploy", "create_model", "report")
        }

    def create_model(self, *args: Any, **kwargs: Any) -> Any:
        """Return the embedded model in place of those of timm, whose weights would be fetched."""
        self._bound("create_model", args, kwargs)
        return self.real["create_model"]()

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Search once by components and once by layers, for a budget that both meet; copy the run if the example wants one."""
        call = self._bound("search", args, kwargs)
        Budget.parse(call["budget"])
        space = read_space(call["space"])
        key = ("search", "layers" if space.modes else "components")  # spaces of runtimes share modes, and so a run
        run = self._folder / f"run-{key[1]}"
        if key not in self._results:
            options = pmq.SearchOptions(recipe="mse", metric="sqnr", n_rounds=1, max_evals=2)
            few = few_bits(4, 8) if space.name == "default" else space
            split = pmq.DataSplit(n_calibration=16, n_held_out=32)
            with shallow_searches():
                self._results[key] = self.real["search"](
                    None, call["images"], "0.3x", space=few, out=run, options=options, split=split
                )
        if call["out"] is not None:
            shutil.copytree(run, call["out"], dirs_exist_ok=True)
        result = self._results[key]
        return replace(result, run=None if call["out"] is None else Path(call["out"]))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate on two batches, and quantize uniform bits by the plainest recipe."""
        call = self._bound("evaluate", args, kwargs)
        if call["calibration_images"] is not None:
            call["calibration_images"] = call["calibration_images"][:16]
        batches = [_first(batch) for batch in islice(call.pop("batches"), 2)]
        return self.real["evaluate"](**call | {"batches": batches, "recipe": "minmax"})

    def deploy(self, *args: Any, **kwargs: Any) -> Any:
        """Write one file per target, of whatever allocation comes first."""
        call = self._bound("deploy", args, kwargs)
        key = ("deploy", call["target"])
        if key not in self._results:
            pytest.importorskip({"litert": "ai_edge_litert"}.get(call["target"], call["target"].partition("-")[0]))
            self._results[key] = self.real["deploy"](**call | {"recipe": "minmax"})
            assert self._results[key].passed
        return self._results[key]

    def report(self, *args: Any, **kwargs: Any) -> Any:
        """Check that the runs are there; searches wrote their reports already."""
        call = self._bound("report", args, kwargs)
        for run in call["runs"]:
            assert (Path(run) / "report.html").is_file()
        return call["runs"]

    def _bound(self, verb: str, args: Any, kwargs: Any) -> dict[str, Any]:
        call = inspect.signature(self.real[verb]).bind(*args, **kwargs)
        call.apply_defaults()
        return dict(call.arguments)


def _first(batch: Any, count: int = 100) -> Any:
    return [part[:count] for part in batch] if isinstance(batch, tuple | list) else batch[:count]


@pytest.fixture(scope="module")
def shared(folder: Path) -> SharedVerbs:
    return SharedVerbs(folder)


@pytest.fixture(params=PYTHON_PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_python_block_runs_as_it_stands(
    page: str, embedded: dict[str, Any], shared: SharedVerbs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for verb in shared.real:
        monkeypatch.setattr(pmq, verb, getattr(shared, verb), raising=False)
    names = {"__name__": "__main__", "model": shared.real["create_model"]()} | embedded
    if page in READS:
        pmq.search(names["model"], names["images"], out=READS[page])
    if page in EXPORTS and importlib.util.find_spec(TOOLS[EXPORTS[page][0]]) is not None:
        allocation = pmq.search(names["model"], names["images"], budget="4bit").allocation
        pmq.export(allocation, EXPORTS[page][2], EXPORTS[page][1], unsupported="widen")
    printed = io.StringIO()
    for block in (block for block in BLOCKS if block.page == page and block.language == "python"):
        if block.title and importlib.util.find_spec(TOOLS[block.title]) is None:
            continue
        namespace = dict(names, model=shared.real["create_model"]()) if block.title else names  # other tools change the model
        torch.manual_seed(0)
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), namespace)
    if page == "README.md":
        _check_readme(printed.getvalue())


def _check_readme(printed: str) -> None:
    """Compare what the example prints with the page: the same columns and rows, and the same bytes where nothing is searched."""
    (shown,) = re.findall(r"^```\n(  allocation .*?)\n```$", README.read_text(), re.DOTALL | re.MULTILINE)
    tables = [[line.split() for line in text.splitlines()] for text in (printed, shown)]
    columns = tables[0][0]
    assert tables[1][0] == columns
    assert len(tables[0]) == len(tables[1]) == 4
    size = columns.index("size_bytes") + 1  # after the number of the row
    assert [(row[1], row[size]) for row in tables[0][2:]] == [(row[1], row[size]) for row in tables[1][2:]]


@pytest.mark.parametrize(("place", "line"), [pair for pair in COMMANDS if pair[1].startswith("pmq ")])
def test_every_command_line_parses(place: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    group: Any = typer.main.get_command(app)
    assert words[0] in group.commands, f"{place}: no command {words[0]!r}"
    command = group.commands[words[0]]
    with command.make_context(f"pmq {words[0]}", words[1:]) as context:
        budget = context.params.get("budget")
        for text in [budget] if isinstance(budget, str) else []:
            Budget.parse(text) if words[0] == "search" else [Budget.parse(part) for part in text.split(",")]


@pytest.mark.parametrize(("place", "line"), [pair for pair in COMMANDS if pair[1].startswith("make ")])
def test_every_target_of_make_exists(place: str, line: str) -> None:
    makefile = (Path(ROOT) / "Makefile").read_text()
    for word in shlex.split(line, comments=True)[1:]:
        variable, is_assignment, _ = word.partition("=")
        pattern = rf"^{variable} *=" if is_assignment else rf"^{word}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"{place}: {word}"


def test_blocks_are_marked() -> None:
    """Code has a language; other tools' blocks have their title; pages tested elsewhere name a test that exists."""
    for block in BLOCKS:
        assert block.language in ("python", "sh", "bash", "yaml", "json"), f"{block.page}:{block.line}"
        if block.title and block.page not in TESTED_ELSEWHERE:
            assert block.title in TOOLS, f"{block.page}:{block.line}"
    for page, test in TESTED_ELSEWHERE.items():
        assert Path(page).name in (Path(ROOT) / test).read_text()
    assert {block.title for block in BLOCKS} >= set(TOOLS)


def test_readme_links_lead_somewhere() -> None:
    for path in (README, Path(ROOT) / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
