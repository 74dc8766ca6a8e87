"""The command line on the embedded default, for real: end to end, killed and resumed, and every bad input."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pmq import cli
from pmq.core import Allocation
from pmq.deploy import TARGETS
from pmq.models.embedded import ASSETS
from tests.conftest import IMAGENET, WEIGHTS, needs_imagenet, pmq

QUICK = ["--calib-images", "6", "--held-out", "12", "--space", "default"]


@pytest.fixture
def run(default_run: Path) -> Path:
    return default_run


def test_default_search_beats_uniform_on_all_test_images(run: Path, tmp_path: Path) -> None:
    csv = tmp_path / "results.csv"
    done = pmq("evaluate", f"{run},w4a4,fp32", "--json", "--results-file", str(csv), "-b", "100")
    assert done.returncode == 0, done.stderr
    ours, uniform, fp32 = json.loads(done.stdout)["results"]
    assert ours["n_images"] == 10_000
    assert ours["size_bytes"] <= uniform["size_bytes"]
    assert ours["bit_ops"] <= uniform["bit_ops"]
    assert ours["agreement"] > uniform["agreement"] + 0.5
    assert ours["kl"] < 0.6 * uniform["kl"]
    assert fp32["top1"] >= 91
    header = csv.read_text().splitlines()[0]
    assert header.startswith("model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation,")


def test_uniform_low_bits_by_minmax_lose_clearly() -> None:
    """Else the search on the embedded model would have nothing to do."""
    done = pmq("evaluate", "w3a3,fp32", "--recipe", "minmax", "--limit", "2000", "--json")
    uniform, fp32 = json.loads(done.stdout)["results"]
    assert uniform["top1"] < fp32["top1"] - 10


def test_export_and_plot_the_latest_run(run: Path, tmp_path: Path) -> None:
    folder = run.parents[2]
    done = pmq("export", "--out", str(tmp_path / "a.json"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert Allocation.load(tmp_path / "a.json").model.name == "vit_fashion_mnist"
    done = pmq("plot", "--json", cwd=folder)
    assert len(json.loads(done.stdout)["files"]) == 15
    again = pmq("evaluate", str(tmp_path / "a.json"), "--limit", "100", "--json")
    assert json.loads(again.stdout)["agreement"] > 90


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    command = ["search", *QUICK, "--out"]
    assert pmq(*command, str(tmp_path / "whole")).returncode == 0
    journal = tmp_path / "killed" / "journal.jsonl"
    # Killed twice: while measuring, and while simulating.
    whole = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines()
    measured = sum('"sensitivity/' in line for line in whole)
    for lines in (measured // 3, measured + 3):
        process = subprocess.Popen([sys.executable, "-m", "pmq", *command, str(tmp_path / "killed"), "--resume"])
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = journal.read_bytes()
    done = pmq(*command, str(tmp_path / "killed"), "--resume")
    assert done.returncode == 0, done.stderr
    for name in ("sensitivity.csv", "front.csv", "points.csv", "allocations/chosen.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    kept = before[: before.rfind(b"\n") + 1]
    assert journal.read_bytes().startswith(kept)
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(whole)
    refused = pmq(*command, str(tmp_path / "killed"))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr


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
        ("search --space magic", "those that ship"),
        ("search --space {quantizer}", "quantizer 'magic'"),
        ("search --data {empty}", "no images"),
        ("evaluate fp32 --results-file .", "it is a folder"),
        ("sensitivity --out .", "it is a folder"),
        ("search --recipe magic", "recipe 'magic'"),
        ("search --recipe fast --reconstruct", "--recipe best"),
        ("search --metric magic", "sensitivity metric 'magic'"),
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
        ("deploy w4a4 --out {tmp}/deployed", "cannot run"),
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
        ("prune --out {run}", "holds another run, which would be lost"),
        ("finetune {tmp}/none.json", "no allocation file"),
        ("finetune w8a8", "no pruned model"),
        ("prune --out {file}", "no folder that can be written to"),
        ("search --prune --recipe mse", "knows no gradients"),
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


def test_allocation_of_another_model(run: Path, tmp_path: Path) -> None:
    data = json.loads((run / "allocations" / "chosen.json").read_text())
    data["model"]["weights_sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(data))
    done = pmq("evaluate", str(tmp_path / "other.json"), "--limit", "100")
    assert done.returncode == 2
    assert "--recalibrate" in done.stderr
    done = pmq("evaluate", str(tmp_path / "other.json"), "--limit", "100", "--recalibrate", "--json")
    assert json.loads(done.stdout)["agreement"] > 90


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_runs_say_how_to_go_on(number: int, status: int, tmp_path: Path) -> None:
    cheap = ["--budget", "6bit", "--space", "w4a8", "--recipe", "minmax", "--metric", "sqnr"]
    command = [sys.executable, "-m", "pmq", "search", *QUICK[:4], *cheap, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "journal.jsonl"
    while not (journal.exists() and b"\n" in journal.read_bytes()):
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"what was measured is kept in '{tmp_path}/run'" in told.splitlines()[-1]
    assert "--resume" in told.splitlines()[-1]
    assert "Traceback" not in told


def test_interrupted_later_runs_finish_with_the_best_so_far(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pmq", "search", *QUICK, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "journal.jsonl"
    while not (journal.exists() and '"sensitivity/round1/' in journal.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "finishing with the best so far" in told
    assert Allocation.load(tmp_path / "run" / "allocations" / "chosen.json").tensors is not None
    assert len(pd.read_csv(tmp_path / "run" / "rounds.csv")) == 1


def test_another_budget_from_a_run_takes_seconds(run: Path) -> None:
    start = time.monotonic()
    done = pmq("search", str(run), "--resume", "--budget", "5bit", "--json")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 20
    answer = json.loads(done.stdout)
    assert Allocation.load(Path(answer["allocation"])).budget.text == "5bit"
    refused = pmq("search", str(run), "--budget", "5bit")
    assert refused.returncode == 2
    assert "--resume" in refused.stderr


def test_rank_prints_its_figures(tmp_path: Path) -> None:
    images = ["--probe-images", "16", "--held-out", "32", "--truth-images", "64"]
    line = [
        "rank",
        "--metric",
        "fisher_shrunk,sqnr",
        "--budget",
        "4bit",
        "--count",
        "10",
        *images,
        "--out",
        str(tmp_path / "rank"),
    ]
    done = pmq(*line, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["default"] in answer
    keys = {"tau", "tau_low", "tau_high", "tau_one_budget", "optimum_kl", "optimum_agreement", "seconds"}
    for name in ("fisher_shrunk", "sqnr", "uniform", answer["default"]):
        assert keys <= set(answer[name]), name
    assert answer[answer["default"]]["optimum_kl"] < answer["uniform"]["optimum_kl"]
    assert {"rank.csv", "allocations.csv", "predictions.png", "optima.svg"} <= {p.name for p in (tmp_path / "rank").iterdir()}
    assert pmq(*line).returncode == 2  # there already, and no --resume


def test_unknown_flags_and_help() -> None:
    assert pmq("search", "--bugdet", "4bit").returncode == 2
    assert pmq("search", "--help").returncode == 0
    assert "search" in pmq().stdout


@needs_imagenet
def test_real_images_and_weights_have_their_known_accuracy() -> None:
    args = ["deit_tiny_patch16_224", "--checkpoint", str(WEIGHTS / "deit_tiny_patch16_224.safetensors")]
    done = pmq("evaluate", "w8a8", *args, "--data", str(IMAGENET), "--crop-pct", "0.98678", "--limit", "200", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["top1"] > 70  # wrong class numbers or preprocessing would be far below
    assert answer["agreement"] > 90


def test_results_are_tables(run: Path) -> None:
    front = pd.read_csv(run / "front.csv")
    assert front["chosen"].sum() == 1
    assert front[front["kl"].notna()].shape[0] > 10
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["command"]["line"].startswith("pmq search")
    assert set(manifest["seconds"]) >= {"sensitivity", "front", "simulation", "total"}


def test_milliseconds_are_searched_deployed_and_run(tmp_path: Path) -> None:
    """All of it on the embedded default: the latency proof alone may fail, where other jobs disturb the clock."""
    profiled = pmq("profile", "--rounds", "3", "--json", cwd=tmp_path)
    assert profiled.returncode == 0, profiled.stderr
    whole = json.loads(profiled.stdout)["whole_ms"]
    budget = f"latency={0.5 * (whole['w8 x 8'] + whole['wfp32 x fp32']):.4f}ms"
    images = ["--calib-images", "6", "--held-out", "12", "--rounds", "1"]
    searched = pmq("search", "--budget", budget, *images, "--json", cwd=tmp_path)
    assert searched.returncode == 0, searched.stderr
    assert json.loads(searched.stdout)["latency_ms"] <= float(budget[8:-2])
    deployed = pmq("deploy", "--limit", "64", "--rounds", "5", "--json", cwd=tmp_path)
    answer = json.loads(deployed.stdout)
    assert deployed.returncode == (0 if answer["passed"] else 1)
    assert answer["agreement_simulated"] >= 95
    assert answer["target"] == "onnxruntime"
    assert answer["predicted_latency_ms"] <= float(budget[8:-2])
    proof = json.loads((tmp_path / answer["file"]).with_name("deployment.json").read_text())["proof"]
    assert {name for name, check in proof.items() if not check["passed"]} <= {"latency"}
    with np.load(ASSETS / "test.npz") as archive:
        Image.fromarray(archive["images"][0]).save(tmp_path / "boot.png")
    ran = pmq("run", answer["file"], "boot.png", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (result,) = json.loads(ran.stdout)["results"]
    assert result["classes"][0]["name"] == "Ankle boot"
    assert sum(c["probability"] for c in result["classes"]) <= 1
    missing = pmq("run", answer["file"], "none.png", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_bits_of_patches_gain_at_equal_bit_operations(kind: str, run: Path, tmp_path: Path) -> None:
    file, start = tmp_path / f"{kind}.json", time.monotonic()
    found = pmq("patches", str(run), "--kind", kind, "--out", str(file), "--json")
    assert found.returncode == 0, found.stderr
    assert time.monotonic() - start < 60  # pictures and all; half of that on an idle machine
    assert json.loads(found.stdout)["simulated"]
    assert (tmp_path / f"{kind}-plots" / "patches-layers.png").is_file()
    before = Allocation.load(run / "allocations" / "chosen.json")
    assert before.budget is not None
    assert json.loads(found.stdout)["bit_ops"] <= before.budget.achieved["bit_ops"] * (1 + 1e-9)
    compared = pmq("evaluate", f"{run},{file}", "--limit", "2000", "--json")
    plain, patched = json.loads(compared.stdout)["results"]
    assert patched["kl"] < plain["kl"]
    assert (plain["patches"], patched["patches"]) == (None, f"{kind}, simulated")
    assert patched["bit_ops"] <= plain["bit_ops"] * (1 + 1e-9)


def test_bits_of_patches_of_a_file_that_lies_in_no_run(run: Path, tmp_path: Path) -> None:
    before = Allocation.load(run / "allocations" / "chosen.json")
    own = before.save(tmp_path / "elsewhere.json")
    again = pmq("patches", own.name, "--share", "0.9", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert before.budget is not None
    assert json.loads(again.stdout)["bit_ops"] <= 0.9 * before.budget.achieved["bit_ops"]
    told = pmq("patches", "w4a4")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("target", ["litert", "executorch"])
def test_runtimes_of_phones(target: str, tmp_path: Path) -> None:
    """Where they are installed."""
    pytest.importorskip(TARGETS[target].runtime)
    deployed = pmq("deploy", "w4a8", "--target", target, "--limit", "64", "--rounds", "3", "--json", cwd=tmp_path)
    assert deployed.returncode == 0, deployed.stderr
    file = json.loads(deployed.stdout)["file"]
    with np.load(ASSETS / "test.npz") as archive:
        Image.fromarray(archive["images"][0]).save(tmp_path / "boot.png")
    ran = pmq("run", file, "boot.png", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["results"][0]["classes"][0]["name"] == "Ankle boot"
    said = json.loads((tmp_path / file).with_name("deployment.json").read_text())
    assert said["layers"]["blocks.0.attn.qkv"] == "w4-group32 x 8-dynamic"
    assert said["layers"]["patch_embed.proj"] == "wfp32 x fp32"


@pytest.mark.parametrize("target", ["litert", "executorch"])
def test_a_runtime_that_is_missing_is_told(target: str, tmp_path: Path) -> None:
    with contextlib.suppress(ImportError):
        __import__(TARGETS[target].runtime)
        pytest.skip("it is not missing")
    found = pmq("deploy", "w8a8", "--target", target, cwd=tmp_path)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert f"pip install 'pmq[{target}]'" in found.stderr
    assert list(tmp_path.iterdir()) == []
