"""A run's results are known by their hashes, and no command writes over them, or over what it reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import pmq
from pmq.api import export, resolve
from pmq.cli.recorded import latency_of
from pmq.core import Allocation, PmqError
from pmq.core.run_files import CHOSEN, LATENCY, RESULTS, check_output, unchanged
from pmq.core.rundir import MANIFEST, add_to_manifest, read_manifest
from pmq.core.spec import read_what
from pmq.reporting import plot_run, write_page
from tests.made_run import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_all_results_are_known_by_their_hashes(run: Path) -> None:
    known = read_manifest(run).files
    assert known.keys() == {name.as_posix() for name in RESULTS if (run / name).is_file()}
    assert {"front.csv", "decisions.json", "allocations/chosen.json", "allocations/chosen.safetensors"} <= known.keys()
    assert all(unchanged(run, known, Path(name)) for name in known)


@pytest.mark.parametrize(
    "name", ["front.csv", "points.csv", "rounds.csv", "sensitivity.csv", "spent.csv", "decisions.json", "inventory.json"]
)
@pytest.mark.parametrize("gone", [False, True])
def test_what_differs_is_named(run: Path, name: str, gone: bool) -> None:
    path = run / name
    if gone:
        path.unlink()
    else:  # digits alone: no check of the table by itself would find it
        path.write_text(path.read_text().replace("0", "1"))
    with pytest.raises(PmqError, match=f"{name} of the run in .* is {'missing' if gone else 'not as the run wrote it'}"):
        write_page([run])


def test_a_changed_allocation_is_read_by_its_own_path_only(run: Path) -> None:
    path = run / CHOSEN
    path.write_text(path.read_text().replace('"agreement": 90.0', '"agreement": 91.0'))
    for read in (read_what, lambda name: export(name, run / "out.json"), lambda name: write_page([name])):
        with pytest.raises(PmqError, match=r"give the file itself: .*chosen\.json"):
            read(str(run))
    found = read_what(str(path))
    assert isinstance(found, Allocation)
    assert found.metrics["agreement"] == 91.0


def test_runs_without_hashes_are_read_still(run: Path) -> None:
    facts = read_manifest(run)
    assert facts.files
    text = (run / MANIFEST).read_text()
    (run / MANIFEST).write_text(text[: text.index(' "files"')].rstrip().rstrip(",") + "\n}\n")
    assert read_manifest(run).files == {}
    before = write_page([run]).read_text()
    (run / "front.csv").write_text((run / "front.csv").read_text())
    assert write_page([run]).read_text() == before
    assert resolve(run, "size=1kB")[1].components


def test_facts_added_later_leave_the_hashes(run: Path) -> None:
    before = read_manifest(run).files
    (run / "front.csv").write_text("damaged")
    add_to_manifest(run, {"note": float("nan")})
    assert read_manifest(run).files == before
    add_to_manifest(run, {"pruned": {}})
    assert read_manifest(run).files != before


def test_a_pipe_in_place_of_a_file_is_told(run: Path) -> None:
    add_to_manifest(run, {"files": {}})
    os.mkfifo(run / LATENCY)
    with pytest.raises(PmqError, match="a folder or a pipe"):
        latency_of(run)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "inventory.json",
        "decisions.json",
        "latency.json",
        "allocations/chosen.json",
        "allocations/without-patches.json",
    ],
)
def test_no_allocation_is_written_over_a_runs_own_files(run: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run.parent / "link.json").symlink_to(run / name)
    for out in (run / name, run / "allocations" / ".." / name, run.parent / "link.json"):
        with pytest.raises(PmqError, match="one of a run's own files"):
            export(run, out)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["x.safetensors", "x", "x.yaml", "x.json.bak"])
def test_an_allocation_is_called_json(run: Path, name: str) -> None:
    out = run.parent / name
    with pytest.raises(PmqError, match="json"):
        export(run, out)
    with pytest.raises(PmqError, match="json"):
        Allocation.load(run / CHOSEN).save(out)
    assert list(run.parent.iterdir()) == [run]


def test_what_is_read_is_not_written(run: Path, tmp_path: Path) -> None:
    exported, _ = export(run, tmp_path / "a.json")
    (tmp_path / "b.json").hardlink_to(exported)
    for out in (exported, tmp_path / "b.json"):
        with pytest.raises(PmqError, match="what this command reads"):
            export(exported, out)
    (tmp_path / "weights.safetensors").write_bytes(b"a checkpoint")
    with pytest.raises(PmqError, match=r"weights\.safetensors.*does not belong to 'weights\.json'"):
        export(run, tmp_path / "weights.json")
    assert (tmp_path / "weights.safetensors").read_bytes() == b"a checkpoint"
    export(run, tmp_path / "c.json")
    export(run, tmp_path / "c.json")  # its own is written anew


OTHERS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "table": ("t.json", lambda run, out: check_output(out, ".csv")),
    "rows of a run": ("run/front.csv", lambda run, out: check_output(out, ".csv")),
    "page": ("p.csv", lambda run, out: write_page([run], out)),
    "page of a journal": ("run/journal.jsonl", lambda run, out: write_page([run], out)),
    "latency table": ("t.csv", lambda run, out: pmq.profile(None, file=out)),
    "latency table of a run": ("run/latency.json", lambda run, out: pmq.profile(None, file=out)),
    "figures": ("run", plot_run),
}


@pytest.mark.parametrize("of", OTHERS)
def test_other_outputs_are_refused_before_any_work(run: Path, of: str) -> None:
    name, write = OTHERS[of]
    before = {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()}
    with pytest.raises(PmqError, match=r"cannot (write|draw)"):
        write(run, run.parent / name)
    assert {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()} == before


def test_tensors_that_are_missing_are_said(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / CHOSEN).with_suffix(".safetensors").unlink()
    export(run, run.parent / "a.json")
    assert "`recalibrate`" in capfd.readouterr().err
