"""``pmq finetune``: distil the unpruned model into a pruned one."""

from __future__ import annotations

import json as json_module
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import print_json, print_table, say
from pmq.cli.recorded import base_of, command_of, fill_from_pruned, next_model, run_of, show_report
from pmq.cli.source import NO_FLAGS, Source


@grouped
def finetune(
    pruned: Annotated[str, typer.Argument(help="Folder or allocation file of a pruned model, as written by pmq prune")],
    epochs: Annotated[int, typer.Option(help="Number of passes over the training images", min=1)] = 10,
    lr: Annotated[float, typer.Option(help="Peak learning rate", min=0)] = 1e-4,
    train_images: Annotated[int | None, typer.Option(help="Number of training images (default: all)", min=1)] = None,
    held_out: Annotated[int, typer.Option(help="Number of held-out images that select the best epoch", min=8)] = 256,
    vary: Annotated[bool, typer.Option(help="Augment images with random flips and magnification")] = True,
    amp: Annotated[bool, typer.Option("--amp", help="Multiply in bfloat16, which is faster on GPUs")] = False,
    source: Source = NO_FLAGS,
    limit: Annotated[int | None, typer.Option(help="Number of images to evaluate on (default: all)", min=1)] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: next to the pruned model's folder)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted fine-tuning with the same settings")] = False,
    json: o.Json = False,
) -> None:
    """Fine-tune a pruned model by distillation from the unpruned one, and keep the best epoch."""
    from pmq.api import evaluate as run_evaluate
    from pmq.api import finetune as run_finetune
    from pmq.cli.subject import open_subject
    from pmq.core import Allocation, PmqError
    from pmq.core.files import check_target, is_dir
    from pmq.core.rundir import CHOSEN, PRUNED, add_to_manifest
    from pmq.core.spec import read_what
    from pmq.models.create import check_named

    allocation = read_what(pruned)
    if not isinstance(allocation, Allocation) or allocation.pruning is None:
        raise PmqError(f"{pruned!r} is no pruned model; name the folder of one, as written by `pmq prune`")
    base = base_of(source, run_of(pruned)) or check_named(allocation.model.name)
    source = fill_from_pruned(source.with_model(pruned)).with_model(base)
    folder = out or Path(f"{Path(pruned) if is_dir(Path(pruned)) else Path(pruned).with_suffix('')}-finetuned")
    check_target(folder / CHOSEN)
    module, images = open_subject(source, workers, device, threads)
    training = images.calibration
    order = training.draw(seed)
    available = len(order) // 2 if images.shared else len(order)
    count = min(train_images or available, available - held_out)
    if count < batch_size:
        raise PmqError(
            f"{training.name} has {available} images for training, of which {held_out} are held out; "
            "lower --held-out or --batch-size"
        )
    tuned = run_finetune(
        module,
        allocation,
        training,
        order[held_out : held_out + count],
        training.first_readable(order, held_out),
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
    table = run_evaluate(module, [allocation, tuned.allocation], batches, crop_pct=source.crop_pct, seed=seed)
    before, after = json_module.loads(table.to_json(orient="records"))
    add_to_manifest(folder, {PRUNED: after, "command": command_of(source)})
    if json:
        print_json(
            {"run": str(folder), "allocation": str(folder / CHOSEN), "history": tuned.history} | after | {"before": before}
        )
        show_report(folder, json)
        return
    say(
        f"{count} images, {epochs} epochs; error on {held_out} held-out images: {tuned.before:.4g} before, "
        f"{tuned.after:.4g} at best"
    )
    rows = [
        [name, r["top1"], r["agreement"], r["kl"] if r["kl"] is not None else r["feature_error"]]
        for name, r in (("before", before), ("after", after))
    ]
    print_table(f"{before['model']} on {before['n_images']} images", ["", "top-1 %", "agreement %", "KL or error"], rows)
    arguments = shlex.quote(str(folder)) + next_model(replace(source, base=source.base or source.model))
    commands = f"pmq search {arguments} --budget 4bit; pmq deploy w8a8 {arguments} --target onnxruntime"
    say(f"fine-tuned model: {folder}", f"next: {commands}")
    show_report(folder, json)
