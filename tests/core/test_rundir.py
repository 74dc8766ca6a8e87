from pathlib import Path

import pytest

from pmq.core import PmqError
from pmq.core.rundir import RunDir, latest_run, read_manifest


def test_journal_survives_and_half_a_line_does_not(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r", {"a": 1})
    run.record("x", {"error": 0.1})
    with (tmp_path / "r" / "journal.jsonl").open("a") as file:
        file.write('{"key": "y", "val')
    again = RunDir(tmp_path / "r", {"a": 1}, resume=True)
    assert again.recall("x") == {"error": 0.1}
    assert again.recall("y") is None
    again.record("y", {"error": 0.2})
    assert RunDir(tmp_path / "r", {"a": 1}, resume=True).recall("y") == {"error": 0.2}


@pytest.mark.parametrize(("content", "line"), [(b"\x08\x00{}\xc0", 1), (b"PK\n\xc0\xc0", 1), (b'{"kay": "y', 1)])
def test_file_that_is_no_journal_stays_as_it_is(tmp_path: Path, content: bytes, line: int) -> None:
    RunDir(tmp_path / "r", {"a": 1})
    journal = tmp_path / "r" / "journal.jsonl"
    journal.write_bytes(content)
    with pytest.raises(PmqError, match=f"damaged at line {line}; remove that line"):
        RunDir(tmp_path / "r", {"a": 1}, resume=True)
    assert journal.read_bytes() == content


def test_never_mixes_runs(tmp_path: Path) -> None:
    RunDir(tmp_path / "r", {"seed": 1})
    with pytest.raises(PmqError, match="`resume`"):
        RunDir(tmp_path / "r", {"seed": 1})
    with pytest.raises(PmqError, match="its seed was 1, now it is 2"):
        RunDir(tmp_path / "r", {"seed": 2}, resume=True)


def test_unfinished_and_absent_runs_are_told(tmp_path: Path) -> None:
    RunDir(tmp_path / "r", {})
    with pytest.raises(PmqError, match="did not finish"):
        read_manifest(tmp_path / "r")
    with pytest.raises(PmqError, match="no run directory"):
        read_manifest(tmp_path)
    with pytest.raises(PmqError, match="no finished run"):
        latest_run(tmp_path)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PmqError, match="cannot write"):
        RunDir(tmp_path / "file" / "r", {})


@pytest.mark.parametrize("text", ["x", "[]", ""])
def test_damaged_manifests_and_journals_are_told(tmp_path: Path, text: str) -> None:
    RunDir(tmp_path / "r", {}).record("x", {"error": 1.0})
    with (tmp_path / "r" / "journal.jsonl").open("a") as file:
        file.write("\0\0\n")
    with pytest.raises(PmqError, match="damaged at line 2"):
        RunDir(tmp_path / "r", {}, resume=True)
    (tmp_path / "r" / "manifest.json").write_text(text)
    with pytest.raises(PmqError, match=r"manifest\.json"):
        RunDir(tmp_path / "r", {}, resume=True)
