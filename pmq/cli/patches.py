"""``pmq patches``: allocate bits to the single patches of an allocation's activations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import costs, print_json, print_table, say
from pmq.cli.recorded import LATEST, fill_from_runs, latency_of, latest_or, next_file, run_of, show_report
from pmq.cli.source import NO_FLAGS, Source

if TYPE_CHECKING:
    from pmq.core import Allocation


@grouped
def patches(
    what: Annotated[str, typer.Argument(help="Allocation file, run directory, or latest")] = LATEST,
    model: o.Model = None,
    kind: Annotated[
        str,
        typer.Option(help="Kind of patch map: static (bits per position) or dynamic (bits per rank, determined for each image)"),
    ] = "static",
    share: Annotated[float, typer.Option(help="Share of the allocation's bit operations to use", min=0.01, max=1.0)] = 1.0,
    score: Annotated[str | None, typer.Option(help="Score that ranks the patches: range, received, class_range, ...")] = None,
    source: Source = NO_FLAGS,
    workers: o.Workers = 0,
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="File to write (default: patches-KIND.json next to the allocation)")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Allocate bits to each patch in each layer, within an allocation's bit operations or a share of them."""
    from pmq.api.reallocate import reallocate
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.files import is_dir
    from pmq.core.run_files import check_output
    from pmq.core.rundir import CHOSEN
    from pmq.core.spec import read_what
    from pmq.pipeline.image_split import CALIB_IMAGES, HELD_OUT
    from pmq.pipeline.patches.figures import draw_patches
    from pmq.pipeline.patches.kinds import SCORE, check_kind

    check_kind(kind, score)
    name = latest_or(what, results)
    allocation = read_what(name)
    if not isinstance(allocation, Allocation):
        raise PmqError(f"{what!r} is no allocation; name an allocation file or a run, as written by `pmq search`")
    file = Path(name) / CHOSEN if is_dir(Path(name)) else Path(name)
    inputs = [file, file.with_suffix(".safetensors"), source.checkpoint]
    target = check_output(out or file.with_name(f"patches-{kind}.json"), ".json", inputs, (".safetensors",))
    run = run_of(name)
    source = fill_from_runs([name], [allocation], source.with_model(model))
    module, images = open_subject(source, workers, "cpu", None)
    info = allocation.calibration
    used = info.images_used if info else 0
    seed_of_used = info.seed if info and info.seed is not None else seed
    calibration = images.calibration_images(used if used > 8 else CALIB_IMAGES + HELD_OUT, seed_of_used)
    crop = source.crop_pct
    table, score = latency_of(run), score or SCORE
    result = reallocate(module, allocation, calibration, kind, share=share, score=score, latency=table, crop_pct=crop, seed=seed)
    result.save(target)
    pictures = draw_patches(module, result, calibration[:CALIB_IMAGES], target.with_name(f"{target.stem}-plots"), crop)
    assert result.budget is not None and result.patches is not None
    if json:
        summary = {"allocation": str(target), "kind": kind, "simulated": result.patches.simulated}
        achieved = {key: result.budget.achieved[key] for key in ("size_bytes", "bit_ops")}
        print_json(summary | achieved | result.metrics)
        show_report(run, json)
        return
    _print_patches(result)
    executed = not result.patches.simulated and result.target is not None
    say(
        f"executed: pmq deploy skips the tokens on {result.target}"
        if executed
        else "simulated: no runtime executes bits of patches"
    )
    command = f"pmq {'deploy' if executed else 'evaluate'} {next_file(target, source)}"
    say(
        f"allocation: {target}",
        f"pictures: {pictures[0].parent}",
        f"next: {command}",
    )
    show_report(run, json)


def _print_patches(allocation: Allocation) -> None:
    """Print the mean bits, costs and accuracy of an allocation with a patch map, and the tokens that are skipped."""
    assert allocation.budget is not None and allocation.patches is not None
    patch_map, metrics, achieved = allocation.patches, allocation.metrics, allocation.budget.achieved
    mean = sum(patch_map.mean_bits.values()) / len(patch_map.mean_bits)
    error = metrics["kl"] if metrics.get("kl") is not None else metrics.get("feature_error")
    row = [
        patch_map.label,
        len(patch_map.components),
        mean,
        *costs(achieved["size_bytes"], achieved["bit_ops"]),
        metrics.get("agreement"),
        error,
    ]
    columns = ["bits of patches", "activations", "mean bits", "MB", "bit ops (G)", "agreement %", "KL or error"]
    print_table(f"{allocation.model.name}, on images that were not used for measurements", columns, [row])
    skipped = {name: len(t.bits) - len(t.kept) for name, t in patch_map.components.items() if "0" in t.bits}
    if skipped and patch_map.kind == "static":
        say("skipped: " + ", ".join(f"{n} tokens of {name}" for name, n in skipped.items()))
