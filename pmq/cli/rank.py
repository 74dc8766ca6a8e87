"""``pmq rank``: how far each sensitivity metric can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, print_table, say
from pmq.cli.source import NOTHING, Source, grouped


@grouped
def rank(
    model: o.Model = None,
    metric: Annotated[
        str | None, typer.Option(help="metrics with commas; fisher@w4a4 measures around W4A4; all by default")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="budgets with commas, at which each metric's own optimum is simulated")
    ] = "4bit,5bit,6bit",
    one_budget: Annotated[str, typer.Option(help="budget of the random allocations that all cost the same")] = "4.5bit",
    count: Annotated[int, typer.Option(help="random allocations over all budgets, and as many at one", min=5)] = 100,
    source: Source = NOTHING,
    space: o.Space = "default",
    recipe: o.Recipe = "best",
    calib_images: o.CalibImages = 32,
    probe_images: Annotated[int, typer.Option(help="further images that metrics look at", min=1)] = 48,
    held_out: Annotated[int, typer.Option(help="further images that judge candidates in rounds", min=4)] = 128,
    truth_images: Annotated[int, typer.Option(help="further images that tell the truth", min=4)] = 256,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="run directory for tables, figures and the optima's allocations")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the same run if it was killed")] = False,
    task: o.Task = "auto",
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Compare sensitivity metrics with the truth: how they rank random allocations, and what they call optimal."""
    from pmq.api import rank as run_rank
    from pmq.api.rank import DEFAULT
    from pmq.cli.subject import open_subject
    from pmq.core import Budget
    from pmq.reporting.rank import plot_rank

    budgets = budget.split(",")
    for text in (*budgets, one_budget):
        Budget.parse(text)  # before the model is loaded
    module, images = open_subject(source.of(model), workers, device, threads)
    needed = calib_images + probe_images + held_out + truth_images
    ranks = run_rank(
        module,
        images.calibration_images(needed, seed),
        metric.split(",") if metric else DEFAULT,
        budgets=budgets,
        one_budget=one_budget,
        count=count,
        space=space,
        recipe=recipe,
        task=task,
        partial=partial,
        calib_images=calib_images,
        probe_images=probe_images,
        held_out=held_out,
        truth_images=truth_images,
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
    print_table(f"Kendall's tau, and each metric's own optimum, on {truth_images} images none has seen", columns, rows)
    say(*map(str, files))


def _short(value: float) -> str:
    return f"{value:.3g}"


def _tau(row: Any, name: str) -> list[str]:
    if row[name] != row[name]:
        return ["-", "-"]
    return [f"{row[name]:.2f}", f"{row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}"]


def _figures(row: Any, error: str, budgets: list[str]) -> dict[str, Any]:
    """One metric's figures; its optimum at the first budget, and at each."""
    taus = ("tau", "tau_low", "tau_high", "tau_one_budget", "tau_one_budget_low", "tau_one_budget_high")
    optima = {b: {"kl": row[f"{error} {b}"], "agreement": row[f"agreement {b}"]} for b in budgets}
    first = {"optimum_kl": optima[budgets[0]]["kl"], "optimum_agreement": optima[budgets[0]]["agreement"]}
    return {name: row[name] for name in (*taus, "seconds", "passes")} | first | {"optima": optima}
