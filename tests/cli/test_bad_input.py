"""Bad input of every kind is one line and exit status 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pmq import cli
from tests.conftest import pmq


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, str]:
    """Paths of things that are wrong, each in its own way."""
    torch.save({"x": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"settings": {}}')
    (tmp_path / "typo.yaml").write_text("name: x\nweight: {bits: [4]}\nactivation: {bits: [4]}\npin: {image: 8}\n")
    magic = "name: x\nweight: {bits: [4]}\nactivation: {bits: [4], quantizer: magic}\n"
    (tmp_path / "quantizer.yaml").write_text(magic)
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.json").write_text('{"schema_version": 1,')
    return {p.name.partition(".")[0]: str(p) for p in tmp_path.iterdir()} | {"tmp": str(tmp_path)}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("search deit_tinny", "did you mean"),
        ("search --checkpoint {other}", "has no 'cls_token'"),
        ("search --checkpoint {cut}", "truncated"),
        ("search --checkpoint {tmp}/none.pth", "does not exist"),
        ("search vit_tiny_patch16_224 --no-pretrained", "needs images"),
        ("search vit_tiny_patch16_224 --no-pretrained --data {empty}", "no images"),
        ("search vit_tiny_patch16_224 --no-pretrained --data {tmp}/none", "does not exist"),
        ("search --budget 4bits,foo=1", "not understood"),
        ("search --budget size=1kB", "ask for at least"),
        ("search --space {typo}", "pin"),
        ("search --space magic", "one of the built-in spaces"),
        ("search --space {quantizer}", "quantizer 'magic'"),
        ("search --data {empty}", "no images"),
        ("evaluate fp32 --results-file .", "it is a folder"),
        ("sensitivity --out .", "it is a folder"),
        ("search --recipe magic", "recipe 'magic'"),
        ("search --recipe fast --reconstruct", "--recipe best"),
        ("search --metric magic", "sensitivity metric 'magic'"),
        ("search --memory 8", "such as 8GB"),
        ("sensitivity --memory 0GB", "such as 8GB"),
        ("search --out {file}/run", "cannot write"),
        ("search --calib-images 5000", "1000"),
        ("search --device cuda:9", "device 'cuda:9'"),
        ("evaluate {broken}", "no readable JSON"),
        ("evaluate w9a9", "bit-width 9"),
        ("evaluate {tmp}/none.json", "no allocation file"),
        ("evaluate {empty}", "no run directory"),
        ("evaluate --results {empty}", "no finished run"),
        ("evaluate fp32 --limit 20000", "10000"),
        ("evaluate fp32 --results-file {file}/x.csv --limit 10", "cannot write"),
        ("sensitivity --metric magic", "sensitivity metric"),
        ("search --target magic", "target 'magic'"),
        ("search --budget latency=3ms --latency {broken}", "no readable JSON"),
        ("profile --target magic", "target 'magic'"),
        ("profile --out .", "it is a folder"),
        ("deploy w8a8 --target magic", "target 'magic'"),
        ("deploy w4a4 --target openvino-bf16 --out {tmp}/deployed", "cannot run"),
        ("deploy {broken}", "no readable JSON"),
        ("deploy {tmp}/none.json", "no allocation file"),
        ("deploy w8a8 --latency {broken}", "no readable JSON"),
        ("run {tmp}/none.onnx image.png", "does not exist"),
        ("run {broken} image.png", "not written by pmq deploy"),
        ("prune --ratio 1 --out {tmp}/pruned", "ratio 1.0 is not from 0 to below 1"),
        ("prune --importance size --out {tmp}/pruned", "importance 'size'"),
        ("prune --structure tail --out {tmp}/pruned", "structure 'tail'"),
        ("prune --scope local --out {tmp}/pruned", "scope 'local'"),
        ("prune --part blocks.0.mlp --out {tmp}/pruned", "write NAME=RATIO"),
        ("prune --part blocks.9.mlp=0.5 --calib-images 8 --out {tmp}/pruned", "matches no part"),
        ("prune --target magic", "target 'magic'"),
        ("prune --out {run}", "contains another run, which would be lost"),
        ("finetune {tmp}/none.json", "no allocation file"),
        ("finetune fp32", "nothing to fine-tune"),
        ("finetune w9a9", "9"),
        ("finetune w3a3 --space qdq --out {tmp}/tuned", "every tensor between operators"),
        ("finetune w3a3 --train-images 8 --out {tmp}/tuned", "lower --held-out or --batch-size"),
        ("prune --out {file}", "no folder that can be written to"),
        ("search --prune --recipe mse", "uses no gradients"),
        ("plot {empty}", "no run directory"),
        ("export {broken}", "no readable JSON"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    bad: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    command, *rest = line.format(**bad).split()
    folder = Path(bad["tmp"])
    before = {p for p in folder.rglob("*")}
    out = ["--results", str(folder / "results")] if command == "search" and "--out" not in rest else []
    monkeypatch.setattr(sys, "argv", ["pmq", command, *rest, *out])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("pmq: ")
    assert {p for p in folder.rglob("*")} == before


def test_unknown_flags_and_help() -> None:
    assert pmq("search", "--bugdet", "4bit", fresh=True).returncode == 2
    assert pmq("search", "--help", fresh=True).returncode == 0
    assert "search" in pmq(fresh=True).stdout
