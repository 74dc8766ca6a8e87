"""``pmq rank``: benchmark the sensitivity metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import print_json, print_table, say
from pmq.cli.source import NO_FLAGS, Source


@grouped
def rank(
    model: o.Model = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metrics, separated by commas; fisher@w4a4 measures around W4A4 (default: all that ship with pmq)"),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Budgets, separated by commas, at which the optimum of each metric is simulated")
    ] = "4bit,5bit,6bit",
    one_budget: Annotated[str, typer.Option(help="Budget of the random allocations that all have the same cost")] = "4.5bit",
    count: Annotated[
        int, typer.Option(help="Number of random allocations over all budgets, and again at the one budget", min=5)
    ] = 100,
    source: Source = NO_FLAGS,
    space: o.Space = "default",
    recipe: o.Recipe = "best",
    calib_images: o.CalibImages = 32,
    probe_images: Annotated[int, typer.Option(help="Number of further images that the metrics measure on", min=1)] = 48,
    held_out: Annotated[int, typer.Option(help="Number of held-out images that evaluate candidates in rounds", min=4)] = 128,
    truth_images: Annotated[int, typer.Option(help="Number of further images that determine the reference errors", min=4)] = 256,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory for tables, figures and the allocations of the optima")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run with the same settings")] = False,
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Compare sensitivity metrics with simulation: how they rank random allocations, and how good their optima are."""
    from pmq.api import rank as run_rank
    from pmq.cli.subject import open_subject
    from pmq.core import Budget
    from pmq.pipeline.metric_ranks import DEFAULT_METRICS
    from pmq.reporting.rank import plot_rank

    budgets = budget.split(",")
    for text in (*budgets, one_budget):
        Budget.parse(text)  # fail before the model is loaded
    module, images = open_subject(source.with_model(model), workers, device, threads)
    n_images = calib_images + probe_images + held_out + truth_images
    ranks = run_rank(
        module,
        images.calibration_images(n_images, seed),
        metric.split(",") if metric else DEFAULT_METRICS,
        budgets=budgets,
        one_budget=one_budget,
        n_random=count,
        space=space,
        recipe=recipe,
        task=task,
        partial=partial,
        n_calibration=calib_images,
        n_probe=probe_images,
        n_held_out=held_out,
        n_truth=truth_images,
        batch_size=batch_size,
        seed=seed,
        out=out,
        resume=resume,
    )
    summary, error = ranks.summary, "kl" if f"kl {budgets[0]}" in ranks.summary else "feature_error"
    files = plot_rank(summary, ranks.allocations, error, one_budget, out) if out is not None else []
    if json:
        print_json({"default": ranks.default} | {str(name): _figures(row, error, budgets) for name, row in summary.iterrows()})
        return
    columns = ["metric", "tau", "95 %", f"tau at {one_budget}", "95 %", *(f"KL / agreement {b}" for b in budgets), "s", "passes"]
    rows = []
    for name, row in summary.iterrows():
        optima = [f"{_short(row[f'{error} {b}'])} / {row[f'agreement {b}']:.1f}" for b in budgets]
        rows.append([name, *_tau(row, "tau"), *_tau(row, "tau_one_budget"), *optima, row["seconds"], row["passes"]])
    print_table(f"Kendall's tau, and the optimum of each metric, on {truth_images} images that no metric used", columns, rows)
    say(*map(str, files))


def _short(value: float) -> str:
    return f"{value:.3g}"


def _tau(row: Any, name: str) -> list[str]:
    if row[name] != row[name]:
        return ["-", "-"]
    return [f"{row[name]:.2f}", f"{row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}"]


def _figures(row: Any, error: str, budgets: list[str]) -> dict[str, Any]:
    """Return the figures of one metric, with its optimum at the first budget and at each budget."""
    taus = ("tau", "tau_low", "tau_high", "tau_one_budget", "tau_one_budget_low", "tau_one_budget_high")
    optima = {b: {"kl": row[f"{error} {b}"], "agreement": row[f"agreement {b}"]} for b in budgets}
    first = {"optimum_kl": optima[budgets[0]]["kl"], "optimum_agreement": optima[budgets[0]]["agreement"]}
    return {name: row[name] for name in (*taus, "seconds", "passes")} | first | {"optima": optima}
