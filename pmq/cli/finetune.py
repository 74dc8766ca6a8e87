"""``pmq finetune``: distil the FP32 model into a pruned or quantized one."""

from __future__ import annotations

import json as json_module
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.grouped import grouped
from pmq.cli.output import print_json, print_table, say
from pmq.cli.recorded import (
    LATEST,
    base_of,
    command_of,
    fill_from_pruned,
    fill_from_runs,
    latest_or,
    next_model,
    run_of,
    show_report,
)
from pmq.cli.source import NO_FLAGS, Source

if TYPE_CHECKING:
    from pmq.core import Allocation
    from pmq.core.spec import What


@grouped
def finetune(
    what: Annotated[
        str,
        typer.Argument(help="Pruned model's folder, allocation file, run directory, latest, or uniform bits such as w3a3"),
    ] = LATEST,
    model: o.Model = None,
    epochs: Annotated[int, typer.Option(help="Number of passes over the training images", min=1)] = 10,
    lr: Annotated[float, typer.Option(help="Peak learning rate", min=0)] = 1e-4,
    train_images: Annotated[int | None, typer.Option(help="Number of training images (default: all)", min=1)] = None,
    held_out: Annotated[int, typer.Option(help="Number of held-out images that select the best epoch", min=8)] = 256,
    vary: Annotated[bool, typer.Option(help="Augment images with random flips and magnification")] = True,
    mix: Annotated[bool, typer.Option("--mix", help="Blend images with one another at random, for few images")] = False,
    amp: Annotated[bool, typer.Option("--amp", help="Multiply in bfloat16, which is faster on GPUs")] = False,
    source: Source = NO_FLAGS,
    space: o.Space = "default",
    recipe: o.Recipe = "best",
    reconstruct: o.Reconstruct = False,
    calib_images: o.CalibImages = 32,
    limit: Annotated[int | None, typer.Option(help="Number of images to evaluate on (default: all)", min=1)] = None,
    batch_size: o.BatchSize = 32,
    workers: o.Workers = 0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: next to the model's folder)")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories")] = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted fine-tuning with the same settings")] = False,
    partial: o.Partial = False,
    json: o.Json = False,
) -> None:
    """Fine-tune a pruned or quantized model by distillation from the FP32 model, and keep the best epoch."""
    from pmq.api import evaluate as run_evaluate
    from pmq.api import finetune as run_finetune
    from pmq.cli.subject import open_subject, unpruned_reference
    from pmq.core import Allocation
    from pmq.core.files import check_target
    from pmq.core.rundir import CHOSEN, FINETUNED, PRUNED, add_to_manifest
    from pmq.core.spec import read_what
    from pmq.data.training_split import TrainingSplit
    from pmq.pipeline.students import check_trainable

    name = latest_or(what, results)
    item = read_what(name)
    if isinstance(item, Allocation):
        check_trainable(item)
    pruned = item if isinstance(item, Allocation) and item.is_fp32 else None
    source = _of_quantized(name, item, source.with_model(model)) if pruned is None else _of_pruned(name, pruned, source, model)
    folder = out or _folder(name, item, source, results)
    check_target(folder / CHOSEN)
    module, images = open_subject(source, workers, device, threads)
    if isinstance(item, Allocation) and item.pruning is not None:
        module = unpruned_reference(module, source) or module
    known = item.calibration if isinstance(item, Allocation) else None
    calibrated = calib_images if isinstance(item, str) else 0 if known is None else known.n_images
    seed_of_images = seed if known is None or known.seed is None else known.seed
    training = images.calibration
    split = TrainingSplit.of(images, seed_of_images, calibrated, train_images, held_out, batch_size)
    tuned = run_finetune(
        module,
        item,
        training,
        split.train,
        training.first_readable(split.held_out, held_out),
        epochs=epochs,
        rate=lr,
        batch_size=batch_size,
        amp=amp,
        vary=vary,
        mix=mix,
        seed=seed,
        out=folder,
        resume=resume,
        calibration_images=images.calibration_images(calib_images, seed) if isinstance(item, str) else None,
        space=space,
        recipe=recipe,
        reconstruct=reconstruct,
        checkpoints=results / ".learned",
        partial=partial,
    )
    indices = images.evaluation_indices(split.n_used if images.shared else 0, seed_of_images, limit)
    batches = images.evaluation.batches(batch_size, indices)
    table = run_evaluate(module, [tuned.start, tuned.allocation], batches, crop_pct=source.crop_pct, seed=seed)
    before, after = json_module.loads(table.to_json(orient="records"))
    add_to_manifest(folder, {FINETUNED if pruned is None else PRUNED: after, "command": command_of(source)})
    if json:
        print_json(
            {"run": str(folder), "allocation": str(folder / CHOSEN), "history": tuned.history} | after | {"before": before}
        )
        show_report(folder, json)
        return
    say(
        f"{len(split.train)} images, {epochs} epochs; error on {held_out} held-out images: {tuned.before:.4g} before, "
        f"{tuned.after:.4g} at best"
    )
    _print_accuracy(before, after)
    arguments = shlex.quote(str(folder))
    say(f"fine-tuned model: {folder}")
    if pruned is not None:
        arguments += next_model(replace(source, base=source.base or source.model))
        say(f"next: pmq search {arguments} --budget 4bit; pmq deploy w8a8 {arguments} --target onnxruntime")
    else:
        arguments += next_model(source)
        say(f"next: pmq evaluate {arguments}; pmq deploy {arguments} --target onnxruntime")
    show_report(folder, json)


def _of_pruned(name: str, pruned: Allocation, source: Source, model: str | None) -> Source:
    """Return the source of the unpruned model and the images of a pruned model."""
    from pmq.models.create import check_named

    if model is not None:
        source = replace(source, base=source.base or model)
    base = base_of(source, run_of(name)) or check_named(pruned.model.name)
    return fill_from_pruned(source.with_model(name)).with_model(base)


def _of_quantized(name: str, item: What, source: Source) -> Source:
    """Return the source of the FP32 model and the images of an allocation, or of uniform bits."""
    return fill_from_runs([name], [] if isinstance(item, str) else [item], source)


def _folder(name: str, item: What, source: Source, results: Path) -> Path:
    """Return the folder that is written by default: next to the model's, or below the results for uniform bits."""
    from pmq.core.files import is_dir
    from pmq.core.paths import file_name

    if isinstance(item, str):
        return results / file_name(source.model or "embedded") / f"{item}-finetuned"
    return Path(f"{Path(name) if is_dir(Path(name)) else Path(name).with_suffix('')}-finetuned")


def _print_accuracy(before: dict[str, Any], after: dict[str, Any]) -> None:
    rows = [
        [name, r["top1"], r["agreement"], r["kl"] if r["kl"] is not None else r["feature_error"]]
        for name, r in (("before", before), ("after", after))
    ]
    print_table(f"{before['model']} on {before['n_images']} images", ["", "top-1 %", "agreement %", "KL or error"], rows)
