"""``pmq patches``: bits of single patches, under an allocation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import costs as printed
from pmq.cli.output import print_json, print_table, say
from pmq.cli.run import going_on, latency_of, latest_or, remembered, run_of, show_report
from pmq.cli.source import NOTHING, Source, grouped


@grouped
def patches(
    what: Annotated[str, typer.Argument(help="allocation file, run directory, or latest")] = "latest",
    model: o.Model = None,
    kind: Annotated[str, typer.Option(help="static: bits of each position; dynamic: of ranks, image by image")] = "static",
    share: Annotated[float, typer.Option(help="of the allocation's bit operations", min=0.01, max=1.0)] = 1.0,
    score: Annotated[str | None, typer.Option(help="what ranks patches: range, received, class_range, ...")] = None,
    source: Source = NOTHING,
    workers: o.Workers = 0,
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="file to write; by default beside the allocation")] = None,
    results: Annotated[Path, typer.Option(help="folder of run directories")] = Path("results"),
    json: o.Json = False,
) -> None:
    """Give each patch bits of its own in each layer, within the bit operations of an allocation or a share of them."""
    from pmq.api.reallocate import reallocate
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.files import is_dir
    from pmq.core.run_files import check_output
    from pmq.core.rundir import CHOSEN
    from pmq.core.spec import read_what
    from pmq.pipeline.patches.figures import draw_patches
    from pmq.pipeline.patches.reallocator import SCORE, check_kind
    from pmq.pipeline.subject import CALIB_IMAGES, HELD_OUT

    check_kind(kind, score)
    name = str(latest_or(None, results)) if what == "latest" else what
    allocation = read_what(name)
    if not isinstance(allocation, Allocation):
        raise PmqError(f"{what!r} is no allocation; give the file or the run of one, which `pmq search` writes")
    file = Path(name) / CHOSEN if is_dir(Path(name)) else Path(name)
    inputs = [file, file.with_suffix(".safetensors"), source.checkpoint]
    target = check_output(out or file.with_name(f"patches-{kind}.json"), ".json", inputs, (".safetensors",))
    run = run_of(name)
    source = remembered([name], [allocation], source.of(model))
    module, images = open_subject(source, workers, "cpu", None)
    info = allocation.calibration
    used = info.images_used if info else 0
    drawn = info.seed if info and info.seed is not None else seed
    calibration = images.calibration_images(used if used > 8 else CALIB_IMAGES + HELD_OUT, drawn)
    crop = source.crop_pct
    table, by = latency_of(run), score or SCORE
    found = reallocate(module, allocation, calibration, kind, share=share, score=by, latency=table, crop_pct=crop, seed=seed)
    found.save(target)
    pictures = draw_patches(module, found, calibration[:CALIB_IMAGES], target.with_name(f"{target.stem}-plots"), crop)
    assert found.budget is not None and found.patches is not None
    costs = found.budget.achieved
    if json:
        said = {"allocation": str(target), "kind": kind, "simulated": found.patches.simulated}
        print_json(said | {key: costs[key] for key in ("size_bytes", "bit_ops")} | found.metrics)
        show_report(run, json)
        return
    map_, metrics = found.patches, found.metrics
    mean = sum(map_.mean_bits.values()) / len(map_.mean_bits)
    error = metrics["kl"] if metrics.get("kl") is not None else metrics.get("feature_error")
    row = [
        map_.label,
        len(map_.components),
        mean,
        *printed(costs["size_bytes"], costs["bit_ops"]),
        metrics.get("agreement"),
        error,
    ]
    columns = ["bits of patches", "activations", "mean bits", "MB", "bit ops (G)", "agreement %", "KL or error"]
    print_table(f"{found.model.name}, on images that measured nothing", columns, [row])
    left_out = {name: len(t.bits) - len(t.kept) for name, t in map_.components.items() if "0" in t.bits}
    if left_out and map_.kind == "static":
        say("not computed: " + ", ".join(f"{n} tokens of {name}" for name, n in left_out.items()))
    executed = not map_.simulated and found.target is not None
    say(f"pmq deploy leaves tokens out on {found.target}" if executed else "simulated: no runtime executes them")
    then = f"pmq {'deploy' if executed else 'evaluate'} {going_on(target, source)}"
    say(
        f"allocation: {target}",
        f"pictures: {pictures[0].parent}",
        f"next: {then}",
    )
    show_report(run, json)
