"""Pruning on the command line, on the embedded default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SHALLOW, pmq

QUICK = ["--calib-images", "48", "--limit", "300"]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("pruned") / "half"
    done = pmq("prune", "--ratio", "0.5", *QUICK, "--target", "onnxruntime", "--out", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_it_answers_as_evaluate_does_and_more(pruned: tuple[Path, dict[str, object]]) -> None:
    folder, said = pruned
    assert {"top1", "top5", "agreement", "kl", "n_images", "size_bytes", "bit_ops", "images_per_s"} <= set(said)
    assert said["kl"] < 0.6 * said["before_recovery"]["kl"]
    assert said["n_images"] == 300
    assert [made["what"] for made in said["deployed"]] == ["fp32", "w16a32", "w8a8"]
    for made in said["deployed"]:
        assert made["passed"]
        assert made["latency_ms"] > 0 < made["unpruned_latency_ms"]
    assert said["deployed"][2]["size_bytes"] < 0.4 * said["deployed"][0]["size_bytes"]
    assert (folder / "allocations" / "chosen.safetensors").is_file()


def test_its_folder_is_a_model(pruned: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, said = pruned
    again = pmq("evaluate", str(folder), "--limit", "300", "--calib-images", "48", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["agreement"] == said["agreement"]
    out = tmp_path / "run"
    quick = ["--calib-images", "6", "--held-out", "12", "--max-evals", "2", "--rounds", "1"]
    found = pmq(
        "search", str(folder), "--budget", "w8a8", "--space", "w4a8", *quick, "--out", str(out), "--json", command=SHALLOW
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["size_bytes"] < 0.3 * said["size_bytes"]
    both = pmq("evaluate", f"{out},{folder}", "--limit", "300", "--json")
    assert both.returncode == 0, both.stderr
    quantized, floats = json.loads(both.stdout)["results"]
    assert quantized["agreement"] == pytest.approx(floats["agreement"], abs=4)
    assert quantized["param_count"] == floats["param_count"]


def test_it_is_fine_tuned_and_never_worse_on_what_is_held_out(pruned: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, said = pruned
    options = ["--epochs", "1", "--train-images", "64", "--held-out", "32", "--lr", "1e-5", "--limit", "300"]
    done = pmq("finetune", str(folder), *options, "--out", str(tmp_path / "tuned"), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert min(answer["history"]) <= answer["history"][0]
    assert answer["before"]["agreement"] == said["agreement"]
    again = pmq("evaluate", str(tmp_path / "tuned"), "--limit", "300", "--json")
    assert json.loads(again.stdout)["kl"] == pytest.approx(answer["kl"], rel=1e-5)
    refused = pmq("finetune", str(folder), *options, "--out", str(tmp_path / "tuned"))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
