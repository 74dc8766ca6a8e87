"""The report in a real browser: what it shows is what the run holds."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pmq
from pmq.core import Allocation, PmqError
from pmq.core.run_files import hashes
from pmq.core.rundir import add_to_manifest
from pmq.graph import analyse
from pmq.reporting import write_page, write_report
from pmq.reporting.page.highlights import find_highlights
from pmq.reporting.page.payload import payload
from pmq.reporting.run_data import RunData
from tests.asked import asked
from tests.conftest import SHALLOW, make_tiny
from tests.conftest import pmq as run_pmq
from tests.reporting.browser import Page, page

__all__ = ["page"]
pytestmark = pytest.mark.usefixtures("shallow")

IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(5))
POINTS = """
    const traces = document.getElementById("front-plot").data.filter((trace) => trace.meta === "points");
    return traces.reduce((sum, trace) => sum + trace.x.length, 0);
"""
CLICK = """
    const plot = document.getElementById("front-plot");
    for (const trace of plot.data.filter((t) => t.meta === "points")) {
        const point = trace.customdata.find((p) => p.genome && !p.chosen && p.kl > 0.01);
        if (point) { plot.emit("plotly_click", {points: [{customdata: point}]}); return point; }
    }
"""
DOWNLOAD = 'document.getElementById("download").click()'
BITS = """
    const cells = [...document.querySelectorAll("td[data-component]")];
    return Object.fromEntries(cells.map((cell) => [cell.dataset.component, cell.textContent]));
"""


@pytest.fixture
def report(default_run: Path) -> Path:
    return default_run / "report.html"


def choose(page: Page, picker: str, value: str) -> None:
    page.do(f'const s = document.getElementById("{picker}"); s.value = arguments[0]; s.dispatchEvent(new Event("change"))', value)


def wait_for(path: Path, seconds: float = 10) -> Path:
    """What was downloaded since this was asked last."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = [p for p in path.glob("*.json") if not p.name.startswith("seen")]
        if found:
            return found[0].rename(path / f"seen-{found[0].name}")
        time.sleep(0.1)
    raise AssertionError(f"nothing was downloaded to {path}")


def test_default_run_opens_offline_and_without_errors(page: Page, report: Path) -> None:
    for width in (1440, 390):
        page.open(report, width)
        assert page.do("return document.documentElement.scrollWidth") <= width
        assert page.errors() == []
        assert [url for url in page.requests() if not url.startswith(("file://", "data:", "blob:"))] == []
    titles = [h.text for h in page.driver.find_elements("css selector", "h2")]
    assert titles == ["Pareto front", "Allocation", "Sensitivity and costs", "Validation", "Deployment"]


def test_points_are_the_candidates_of_the_journal(page: Page, report: Path) -> None:
    parts: dict[str, set[str]] = {}
    for line in (report.parent / "journal.jsonl").read_text().splitlines():
        _, _, key = json.loads(line)["key"].partition("simulation/")
        if key:
            name, _, part = key.rpartition("/")
            parts.setdefault(name, set()).add(part)
    whole = max(len(of) for of in parts.values())
    page.open(report)
    assert page.do(POINTS) == sum(len(of) == whole for of in parts.values())
    choose(page, "front-y", "predicted_error")
    front = pd.read_csv(report.parent / "front.csv")
    assert page.do(POINTS) > len(front)
    assert page.do("return rowsOf(RUNS[0].points).filter((p) => p.n_images > 0).length") == len(parts)


def test_click_changes_the_heat_map_and_the_file_is_valid(page: Page, report: Path, tmp_path: Path) -> None:
    page.open(report)
    chosen = Allocation.load(report.parent / "allocations" / "chosen.json")
    shown = page.do(BITS)
    assert shown == {name: "fp32" if c.bits == 32 else str(c.bits) for name, c in chosen.components.items()}
    point = page.do(CLICK)
    other = page.do(BITS)
    assert other != shown
    page.do(DOWNLOAD)  # scrolling is smooth: the mouse would miss it
    file = wait_for(page.downloads)
    allocation = Allocation.load(file)
    assert {name: str(c.bits) for name, c in allocation.components.items()} == other
    assert allocation.budget is not None
    assert allocation.budget.achieved["size_bytes"] == pytest.approx(point["size_bytes"], rel=1e-5)
    done = run_pmq("evaluate", str(file), "--recalibrate", "--limit", "32", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size_bytes"] == pytest.approx(point["size_bytes"], rel=1e-5)


def test_axes_switch(page: Page, report: Path) -> None:
    page.open(report)
    seen = set()
    for y in ("kl", "agreement", "predicted_error"):
        for x in ("size_bytes", "bit_ops"):
            choose(page, "front-y", y)
            choose(page, "front-x", x)
            layout = page.do(
                'const l = document.getElementById("front-plot").layout; return [l.xaxis.title.text, l.yaxis.title.text]'
            )
            seen.add(tuple(layout))
    assert len(seen) == 6
    assert page.errors() == []


def test_runs_side_by_side(page: Page, report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    quick = ["--calib-images", "6", "--held-out", "12", "--rounds", "1", "--max-evals", "2", "--recipe", "fast"]
    done = run_pmq("search", "--budget", "w4a8", "--space", "w4a8", *quick, "--out", str(other), command=SHALLOW)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    out, figures = write_report([report.parent, other], tmp_path / "both.html")
    assert {p.suffix for p in figures} == {".png", ".svg", ".csv"}
    page.open(out)
    assert page.errors() == []
    settings = {
        row.text.split()[0]: row.get_attribute("class") for row in page.driver.find_elements("css selector", "#settings tr")
    }
    assert settings["budget"] == "differs"
    assert settings["model"] != "differs"
    assert len(page.driver.find_elements("css selector", "td.differs")) > 10


@pytest.fixture
def large(default_run: Path, tmp_path: Path) -> Path:
    """A run that looked at 100,000 allocations, 2,000 of them on the front."""
    copy = tmp_path / "large"
    shutil.copytree(default_run, copy)
    rng = np.random.default_rng(0)
    points = pd.read_csv(copy / "points.csv", dtype={"genome": str})
    points = points[points["genome"].notna()].sample(100_000, replace=True, random_state=0)
    points["front"] = np.arange(len(points)) < 2_000
    digits = np.array([list(genome) for genome in points["genome"]])
    points["genome"] = ["".join(row) for row in rng.permuted(digits, axis=0)]
    points = points.drop_duplicates("genome")
    points["predicted_error"] *= np.exp(rng.normal(0, 0.1, len(points)))
    points.to_csv(copy / "points.csv", index=False)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"files": hashes(copy)}))
    return copy


def test_large_runs_stay_small_and_quick(page: Page, large: Path) -> None:
    start = time.monotonic()
    path = write_page([large])
    assert time.monotonic() - start < 20
    assert path.stat().st_size < 10e6
    page.open(path)
    took = page.do(
        'const t = performance.now(); const s = document.getElementById("front-y"); s.value = "predicted_error";'
        's.dispatchEvent(new Event("change")); return performance.now() - t'
    )
    assert took < 3000
    drawn = page.do("return rowsOf(RUNS[0].points).filter((p) => p.front).length")
    everything = pd.concat([pd.read_csv(large / name) for name in ("points.csv", "front.csv")])
    assert drawn == everything["front"].sum()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that searched widths beside bits."""
    out = tmp_path_factory.mktemp("narrow") / "run"
    options = {"n_calibration": 16, "n_held_out": 24, "n_rounds": 1, "max_evals": 6, "prune": True}
    pmq.search(make_tiny(), IMAGES, "0.12x", out=out, **asked(**options))
    return out


def test_an_allocation_with_widths_is_downloaded_and_carried_out(page: Page, narrow: Path) -> None:
    page.open(narrow / "report.html")
    assert page.errors() == []
    kept = page.do('return document.getElementById("pruning-plot").data[0].y')
    assert min(kept) < 100
    point = page.do(CLICK)
    assert page.do('return document.getElementById("pruning-plot").data[0].y') != kept
    page.do(DOWNLOAD)  # scrolling is smooth: the mouse would miss it
    allocation = Allocation.load(wait_for(page.downloads))
    table = pmq.evaluate(make_tiny(), [allocation], [IMAGES[16:]], calibration_images=IMAGES[:16], recalibrate=True)
    # While a search runs, scales of heads that are gone and short groups are not counted apart.
    assert table["size_bytes"][0] == pytest.approx(point["size_bytes"], rel=0.01)


def test_merged_tokens_are_listed_block_by_block(page: Page, tmp_path: Path) -> None:
    model, out = make_tiny(), tmp_path / "run"
    most = 8 * 8 * sum(operator.macs for operator in analyse(model, IMAGES[:1])[1].operators)
    options = {"n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "max_evals": 2, "merge": True, "recipe": "fast"}
    result = pmq.search(model, IMAGES, f"bitops={0.95 * most / 1e6:.3f}M", space="onnxruntime", out=out, **asked(**options))
    merging = result.allocation.merging
    assert merging is not None and list(merging.merged) == ["blocks.0"]
    page.open(out / "report.html")
    assert page.errors() == []
    count, left = merging.merged["blocks.0"], merging.remaining["blocks.0"]
    assert f"Of the 17 tokens of an image, {count} are merged" in page.find("#merging").text
    cells = page.do('return [...document.querySelectorAll("#merging td")].map((cell) => cell.textContent)')
    assert cells == ["blocks.0", str(count), str(left)]
    assert merging.label in page.find("#trust").text


def test_a_feature_extractor_has_a_page(page: Page, tmp_path: Path) -> None:
    options = {"n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "max_evals": 2}
    pmq.search(make_tiny(num_classes=0), IMAGES, "w4a8", space="w4a8", out=tmp_path / "run", **asked(**options))
    page.open(tmp_path / "run" / "report.html")
    assert page.errors() == []
    assert "of their norm" in page.find("#summary").text
    assert "nats" not in page.find("main").text


def test_a_pruned_model_has_a_page(page: Page, tmp_path: Path) -> None:
    pmq.prune(make_tiny(), IMAGES[:16], 0.3, round_to=4, out=tmp_path / "pruned")
    add_to_manifest(tmp_path / "pruned", {"pruned": {"agreement": 90.0, "kl": 0.1}})
    page.open(write_page([tmp_path / "pruned"]))
    assert page.errors() == []
    assert "90.0 %" in page.find("#summary").text
    out = tmp_path / "run"
    model = pmq.load_pruned(tmp_path / "pruned" / "allocations" / "chosen.json", make_tiny())
    pmq.search(
        model,
        IMAGES,
        "w4a8",
        space="w4a8",
        out=out,
        options=pmq.SearchOptions(n_rounds=1, max_evals=2),
        split=pmq.DataSplit(n_calibration=16, n_held_out=16),
    )
    page.open(out / "report.html")
    page.do(CLICK)
    assert min(page.do('return document.getElementById("pruning-plot").data[0].y')) < 100  # whichever point is selected


def test_damaged_runs_are_told(default_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(default_run, copy)
    (copy / "deploy").mkdir()
    (copy / "deploy" / "deployment.json").write_text("{")
    with pytest.raises(PmqError, match="no readable JSON"):
        write_page([copy])
    shutil.rmtree(copy / "deploy")
    (copy / "points.csv").unlink()
    with pytest.raises(PmqError, match=r"points\.csv"):
        write_page([copy])


def test_what_cannot_be_ranked_is_left_out(default_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(default_run, copy)
    add_to_manifest(copy, {"ranking": {"all": {"tau": float("nan"), "low": 0.0, "high": 1.0, "n": 4}}})
    assert '"tau":null' in write_page([copy]).read_text("utf-8")


def test_fp32_is_known_whatever_a_space_calls_it() -> None:
    points = pd.DataFrame({"size_bytes": [4.0, 2.0, 1.0, 0.5], "kl": [0.0, 1e-3, 5e-3, 3.0], "agreement": [100, 99.5, 90, 10.0]})
    points = points.assign(source=["fp32", "nsga2", "nsga2", "nsga2"], within=True)
    assert find_highlights(points, "size_bytes", "kl")["most accurate within the budget"] == 1
    assert find_highlights(points, "size_bytes", "kl")["knee"] == 2


def test_allocations_without_error_are_not_taken_for_fp32(default_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(default_run, copy)
    points = pd.read_csv(copy / "front.csv", dtype={"genome": str})
    points.loc[points["n_images"] > 0, "kl"] = 0.0  # as of a model whose outputs do not depend on its weights
    points.to_csv(copy / "front.csv", index=False)
    add_to_manifest(copy, {"files": hashes(copy)})
    sources = payload(RunData(copy))["points"]["source"]
    assert sources.count("fp32") == 1 and "uniform w8a8" in sources


def test_text_in_the_data_cannot_end_its_element(default_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(default_run, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["command"]["line"] = "pmq search '</script><b>'"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    text = write_page([copy]).read_text()
    assert "</script><b>" not in text


def test_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="no run directory"):
        write_page([tmp_path])
