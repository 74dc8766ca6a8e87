"""``pmq finetune``: a pruned model learns from the whole one."""

from __future__ import annotations

import json as json_module
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json, print_table, say
from pmq.cli.run import base_of, command_of, named_again, of_pruned, run_of, show_report
from pmq.cli.source import NOTHING, Source, grouped


@grouped
def finetune(
    pruned: Annotated[str, typer.Argument(help="folder or allocation file of a pruned model, which pmq prune writes")],
    epochs: Annotated[int, typer.Option(help="how often each image is seen", min=1)] = 10,
    lr: Annotated[float, typer.Option(help="highest learning rate", min=0)] = 1e-4,
    train_images: Annotated[int | None, typer.Option(help="images to learn from; all there are without", min=1)] = None,
    held_out: Annotated[int, typer.Option(help="further images that tell which epoch is the best", min=8)] = 256,
    vary: Annotated[bool, typer.Option(help="mirror and magnify images")] = True,
    amp: Annotated[bool, typer.Option("--amp", help="multiply in bfloat16: faster on GPUs")] = False,
    source: Source = NOTHING,
    limit: Annotated[int | None, typer.Option(help="images to evaluate on; all without", min=1)] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="folder to write; by default beside the pruned model's")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the same if it was killed")] = False,
    json: o.Json = False,
) -> None:
    """Teach a pruned model what it said before it was pruned, by distillation; keep it at its best."""
    from pmq.api import evaluate as run_evaluate
    from pmq.api.finetune import finetune as run_finetune
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.files import check_target, is_dir
    from pmq.core.rundir import CHOSEN, PRUNED, add_to_manifest
    from pmq.core.spec import read_what
    from pmq.models.create import check_named

    allocation = read_what(pruned)
    if not isinstance(allocation, Allocation) or allocation.pruning is None:
        raise PmqError(f"{pruned!r} is no pruned model; `pmq prune` writes one")
    made_of = base_of(source, run_of(pruned)) or check_named(allocation.model.name)
    source = of_pruned(source.of(pruned)).of(made_of)
    folder = out or Path(f"{Path(pruned) if is_dir(Path(pruned)) else Path(pruned).with_suffix('')}-finetuned")
    check_target(folder / CHOSEN)
    module, images = open_subject(source, workers, device, threads)
    learned = images.calibration
    drawn = learned.draw(seed)
    most = len(drawn) // 2 if images.shared else len(drawn)
    count = min(train_images or most, most - held_out)
    if count < batch_size:
        raise PmqError(
            f"{learned.name} has {most} images to learn from, {held_out} are held out; lower --held-out or --batch-size"
        )
    found = run_finetune(
        module,
        allocation,
        learned,
        drawn[held_out : held_out + count],
        learned.first_readable(drawn, held_out),
        epochs=epochs,
        rate=lr,
        batch_size=batch_size,
        amp=amp,
        vary=vary,
        seed=seed,
        out=folder,
        resume=resume,
    )
    indices = images.evaluation_indices(held_out + count if images.shared else 0, seed, limit)
    batches = images.evaluation.batches(batch_size, indices)
    table = run_evaluate(module, [allocation, found.allocation], batches, crop_pct=source.crop_pct, seed=seed)
    before, after = json_module.loads(table.to_json(orient="records"))
    add_to_manifest(folder, {PRUNED: after, "command": command_of(source)})
    if json:
        print_json(
            {"run": str(folder), "allocation": str(folder / CHOSEN), "history": found.history} | after | {"before": before}
        )
        show_report(folder, json)
        return
    say(f"{count} images, {epochs} epochs; error on {held_out} held-out images {found.before:.4g}, at its best {found.after:.4g}")
    rows = [
        [name, r["top1"], r["agreement"], r["kl"] if r["kl"] is not None else r["feature_error"]]
        for name, r in (("before", before), ("after", after))
    ]
    print_table(f"{before['model']} on {before['n_images']} images", ["", "top-1 %", "agreement %", "KL or error"], rows)
    own = shlex.quote(str(folder))
    own += named_again(replace(source, base=source.base or source.model))
    then = f"pmq search {own} --budget 4bit; pmq deploy w8a8 {own} --target onnxruntime"
    say(f"fine-tuned model: {folder}", f"next: {then}")
    show_report(folder, json)
