"""Files read back: what is damaged is told in one line, and nothing in them is dropped or doubled."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pmq.core import PmqError
from pmq.core.files import check_target, is_dir, is_file, read_csv, read_json, read_yaml, write_text

LONG = "x" * 300
BOMB = "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 2}}\n" for i in range(1, 12))


def line_of(error: pytest.ExceptionInfo[PmqError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ('{"a": 1' + "0" * 5000 + "}", "beyond 64 bits"),
        ('{"a": 18446744073709551616}', "beyond 64 bits"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "beyond what a float can be"),
        ('{"a": {"b": 1, "b": 2}}', "key 'b' stands twice"),
        ('{"a": "\\ud800"}', "half a character"),
        (b'{"a": "\xe9"}', "no UTF-8"),
        *((text, "no JSON object") for text in ("[1]", "-1", "null", "true", '"x"')),
        ("", "no readable JSON"),
        ('{"a": 1} {', "no readable JSON"),
    ],
)
def test_json_that_is_none_is_told(tmp_path: Path, text: str | bytes, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PmqError) as error:
        read_json(path, "table")
    assert told in line_of(error)
    assert str(path) in line_of(error)


def test_a_mark_of_byte_order_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9 \\ud83d\\ude00"}')
    assert read_json(tmp_path / "a.json", "table") == {"a": "é 😀"}
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert read_csv(tmp_path / "a.csv", "table") == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize("of", [read_json, read_yaml, read_csv])
def test_what_is_no_file_is_told_and_never_waited_for(tmp_path: Path, of: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "folder", "loop", "nothing", LONG, f"{LONG}/x", "pipe/x"):
        with pytest.raises(PmqError) as error:
            of(tmp_path / name, "table")  # type: ignore[operator]
        assert line_of(error).startswith("table ")


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(1 << 40)
    for read in (read_json, read_yaml, read_csv):
        with pytest.raises(PmqError, match="more than the"):
            read(tmp_path / "a.yaml", "table")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice in the mapping that begins in line 1"),
        ("a: {b: 1, b: 1}\n", "key 'b' stands twice"),
        ("a: {1: x, 0x1: y}\n", "key 1 stands twice"),
        (BOMB, "more than 100000 things"),
        (MERGED, "more than 100000 things"),
        ("a: &a [*a]\n", "an alias holds itself"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]\n", "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !!int x\n", "is not understood"),
        ("a: !!timestamp x\n", "is not understood"),
        ("a: 2001-13-45\n", "month must be"),
        ("a: 1" + "0" * 5000 + "\n", "5001 digits"),
        ("? [1]\n: 2\n", "unhashable key"),
        ("1: 2\n", "no mapping of keys"),
        ("- 1\n", "no mapping of keys"),
        ("", "no mapping of keys"),
        ("a: b: c", "no YAML"),
        ("a: \x00", "no YAML"),
    ],
)
def test_yaml_that_is_none_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    start = time.monotonic()
    with pytest.raises(PmqError) as error:
        read_yaml(tmp_path / "a.yaml", "space")
    assert told in line_of(error)
    assert time.monotonic() - start < 5


def test_honest_anchors_are_followed(tmp_path: Path) -> None:
    text = "a: &few {bits: [4, 8]}\nb: *few\nc:\n  <<: *few\n  quantizer: affine\n"
    (tmp_path / "a.yaml").write_text(text)
    few = {"bits": [4, 8]}
    assert read_yaml(tmp_path / "a.yaml", "space") == {"a": few, "b": few, "c": few | {"quantizer": "affine"}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no header"),
        ("a,b\n1,2\n3,", "ends within a line"),
        ("a,b\n1,2\n3\n", "1 cells in row 3 and 2 columns"),
        ("a,b\n1,2,3\n", "3 cells in row 2"),
        ("a,a\n1,2\n", "names a column twice"),
        ('a,b\n"1,2\n', "no table"),
        ("a\n" + "x" * 200_000 + "\n", "no table"),
    ],
)
def test_csv_that_is_none_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(PmqError) as error:
        read_csv(tmp_path / "a.csv", "table")
    assert told in line_of(error)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in (LONG, f"{LONG}/y"):
        assert not is_file(tmp_path / name)
        assert not is_dir(tmp_path / name)
    with pytest.raises(PmqError, match="more than 255 bytes"):
        check_target(tmp_path / "é" / ("é" * 130))
    name = "x" * 255
    assert write_text(tmp_path / name, "text").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_bytes_of_file_names_are_spelled_out(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert write_text(tmp_path / "a", f"{name} é").read_bytes() == rb"caf\udce9" + b" \xc3\xa9"
