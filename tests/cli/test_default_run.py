"""What a newcomer's first search gives, and what is made of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd

from pmq.core import Allocation
from tests.conftest import pmq


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
    done = pmq("evaluate", "w2a2,fp32", "--recipe", "minmax", "--limit", "2000", "--json")
    uniform, fp32 = json.loads(done.stdout)["results"]
    assert uniform["top1"] < fp32["top1"] - 10


def test_export_and_plot_the_latest_run(run: Path, tmp_path: Path) -> None:
    folder = run.parents[2]
    done = pmq("export", "latest", "--out", str(tmp_path / "a.json"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert Allocation.load(tmp_path / "a.json").model.name == "vit_fashion_mnist"
    done = pmq("plot", "latest", "--json", cwd=folder)
    assert len(json.loads(done.stdout)["files"]) == 15
    done = pmq("report", "latest", "--no-figures", "--json", cwd=folder)
    assert (folder / json.loads(done.stdout)["report"]).resolve() == (run / "report.html").resolve()
    again = pmq("evaluate", str(tmp_path / "a.json"), "--limit", "100", "--json")
    assert json.loads(again.stdout)["agreement"] > 90


def test_allocation_of_another_model(run: Path, tmp_path: Path) -> None:
    data = json.loads((run / "allocations" / "chosen.json").read_text())
    data["model"]["weights_sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(data))
    done = pmq("evaluate", str(tmp_path / "other.json"), "--limit", "100")
    assert done.returncode == 2
    assert "--recalibrate" in done.stderr
    done = pmq("evaluate", str(tmp_path / "other.json"), "--limit", "100", "--recalibrate", "--json")
    assert json.loads(done.stdout)["agreement"] > 90


def test_another_budget_from_a_run_takes_seconds(run: Path) -> None:
    start = time.monotonic()
    done = pmq("search", str(run), "--resume", "--budget", "5bit", "--json")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 20
    answer = json.loads(done.stdout)
    assert Allocation.load(Path(answer["allocation"])).budget.text == "5bit"


def test_results_are_tables(run: Path) -> None:
    front = pd.read_csv(run / "front.csv")
    assert front["chosen"].sum() == 1
    assert front[front["kl"].notna()].shape[0] > 10
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["command"]["line"].startswith("pmq search")
    assert set(manifest["seconds"]) >= {"sensitivity", "front", "simulation", "total"}
