"""Manifests and journals are typed when they are read; one that is damaged harms no other run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pmq.core import PmqError
from pmq.core.rundir import MANIFEST, RunDir, add_to_manifest, is_finished, is_pruned, latest_run, read_manifest

WRONG: list[dict[str, Any]] = [
    {"settings": []},
    {"settings": "x"},
    {"command": "pmq search"},
    {"command": {"line": 3}},
    {"command": {"data": ["a"]}},
    {"command": {"crop_pct": -1}},
    {"chosen": 1},
    {"pruned": "yes"},
    {"pruned": {"kl": "low"}},
    {"limits": None},
    {"limits": {"size_bytes": "x"}},
    {"ranking": [1]},
    {"ranking": {"all": {"tau": "x", "low": 0, "high": 1, "n": 3}}},
    {"seconds": "long"},
    {"seconds": {"total": {}}},
    {"resumed": "perhaps"},
    {"files": {"front.csv": 3}},
    {"macs_searched": "all"},
]


def write(folder: Path, facts: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(facts if isinstance(facts, str) else json.dumps(facts))
    return folder


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_other_types_are_told_by_name(tmp_path: Path, wrong: dict[str, Any]) -> None:
    write(tmp_path, {"chosen": "allocations/chosen.json"} | wrong)
    for read in (read_manifest, is_finished, is_pruned):
        with pytest.raises(PmqError, match=f"manifest .*: {next(iter(wrong))}") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"settings": {"a": 1, "a": 2}}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\0"]
)
def test_a_manifest_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    for read in (read_manifest, is_finished, lambda path: RunDir(path, {}, resume=True), lambda path: add_to_manifest(path, {})):
        with pytest.raises(PmqError, match=r"manifest .*manifest\.json"):
            read(tmp_path)
    assert (tmp_path / MANIFEST).read_text() == text


def test_unknown_keys_and_nan_are_no_damage(tmp_path: Path) -> None:
    write(tmp_path, '{"chosen": "x", "new": {"a": [1]}, "ranking": {"all": {"tau": NaN, "low": 0.1, "high": 1, "n": 4}}}')
    assert read_manifest(tmp_path).ranking["all"].tau is None
    add_to_manifest(tmp_path, {"seconds": {"total": float("inf")}})
    kept = json.loads((tmp_path / MANIFEST).read_text())
    assert kept["new"] == {"a": [1]}
    assert kept["seconds"] == {"total": None}


def test_names_of_files_in_any_encoding_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"/caf\xe9")
    RunDir(tmp_path, {}).finish(chosen="x", command={"line": name, "data": name})
    command = read_manifest(tmp_path).command
    assert command is not None
    assert command.data == name


def test_one_damaged_run_harms_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "model" / "good", {"chosen": "x"})
    os.utime(good / MANIFEST, (1, 1))
    for number, text in enumerate(("{", "[]", '{"chosen": 3}', "\xff")):
        write(tmp_path / "model" / f"bad{number}", text)
    (tmp_path / "model" / "pipe").mkdir()
    os.mkfifo(tmp_path / "model" / "pipe" / MANIFEST)
    assert latest_run(tmp_path) == good
    told = capfd.readouterr().err.splitlines()
    assert len([line for line in told if line.startswith("passed over: manifest ")]) == 5
    for nowhere in (tmp_path / "none", tmp_path / ("x" * 300), good / MANIFEST):
        with pytest.raises(PmqError, match="no finished run"):
            latest_run(nowhere)


def test_a_changed_figure_in_a_journal_is_told(tmp_path: Path) -> None:
    run = RunDir(tmp_path, {})
    run.record("x", {"error": 0.125})
    run.record("y", {"error": float("nan")})
    journal = tmp_path / "journal.jsonl"
    again = RunDir(tmp_path, {}, resume=True)
    assert again.recall("x") == {"error": 0.125}
    assert str(again.recall("y")) == "{'error': nan}"
    journal.write_text(journal.read_text().replace("0.125", "0.625"))
    with pytest.raises(PmqError, match="damaged at line 1"):
        RunDir(tmp_path, {}, resume=True)


@pytest.mark.parametrize(
    "line", ['{"key": "x"}', '{"key": 3, "value": {}}', '{"key": "x", "value": [1]}', "[" * 100_000, "3", "\\", ""]
)
def test_lines_of_a_journal_that_are_none_are_told(tmp_path: Path, line: str) -> None:
    RunDir(tmp_path, {}).record("x", {"error": 1.0})
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(PmqError, match="damaged at line 2"):
        RunDir(tmp_path, {}, resume=True)


def test_journals_of_older_versions_have_no_check_sums(tmp_path: Path) -> None:
    RunDir(tmp_path, {})
    (tmp_path / "journal.jsonl").write_text('{"key": "x", "value": {"error": 0.5}}\n')
    assert RunDir(tmp_path, {}, resume=True).recall("x") == {"error": 0.5}


def test_a_line_without_its_check_sum_is_damaged(tmp_path: Path) -> None:
    run = RunDir(tmp_path, {})
    run.record("x", {"error": 1.0})
    run.record("y", {"error": 2.0})
    first, second = (tmp_path / "journal.jsonl").read_text().splitlines()
    bare = second.partition(', "crc32')[0]
    (tmp_path / "journal.jsonl").write_text(f"{first}\n{bare}}}\n")
    del run
    with pytest.raises(PmqError, match="damaged at line 2"):
        RunDir(tmp_path, {}, resume=True)


def test_a_pipe_in_place_of_a_journal_is_told(tmp_path: Path) -> None:
    RunDir(tmp_path, {})
    os.mkfifo(tmp_path / "journal.jsonl")
    with pytest.raises(PmqError, match="a folder or a pipe"):
        RunDir(tmp_path, {}, resume=True)


def test_settings_that_differ_are_shown_short(tmp_path: Path) -> None:
    RunDir(tmp_path, {"space": {str(i): [1] * 100 for i in range(1000)}})
    with pytest.raises(PmqError, match="its space was") as error:
        RunDir(tmp_path, {"space": {"a": "x" * 10_000}}, resume=True)
    assert len(str(error.value)) < 700
