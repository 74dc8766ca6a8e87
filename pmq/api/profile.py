"""Latency tables: measured, kept, and found again."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pmq.core import PmqError
from pmq.core.files import is_file
from pmq.core.paths import architecture
from pmq.core.progress import message
from pmq.core.run_files import check_output
from pmq.cost import LatencyTable
from pmq.models import model_label
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.search.width_options import Shapes, groups_of
from pmq.pipeline.subject import Subject
from pmq.runtimes import TARGETS
from pmq.runtimes.bench import ROUNDS
from pmq.runtimes.profile import fingerprint, profile_layers
from pmq.runtimes.widths import MIXTURES, WidthBench


@undisturbed
def profile(
    model: nn.Module | str | None,
    target: str = "onnxruntime",
    *,
    space: str | SpaceFile | None = None,
    batch_size: int = 1,
    threads: int = 1,
    rounds: int = ROUNDS,
    prune: bool = False,
    out: Path | str | None = None,
) -> LatencyTable:
    """Time every layer of a model at every choice, in a runtime on this machine.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one. Weights don't matter.
        target: the runtime, see :mod:`pmq.runtimes`.
        space: whose choices; the target's own without.
        batch_size: images at once.
        threads: of the runtime.
        rounds: of each comparison; more are steadier.
        prune: time the widths as well that ``SearchOptions(prune=True)`` may choose.
        out: file to write the table to.

    Raises:
        PmqError: the target's packages are missing, or the space has a choice that it does not run.
    """
    if out is not None:
        check_output(Path(out), ".json")
    runtime = TARGETS[target]
    runtime.require()
    subject = Subject.of(model, "cpu")
    laid_out = Space(space if isinstance(space, SpaceFile) else read_space(space or target), subject.inventory)
    for layer, pairs in laid_out.modes.items():
        for weight, source in pairs:
            runtime.check_layer(layer, weight, source)
    name, size = model_label(subject.module), subject.info.data_config["input_size"]
    table = profile_layers(runtime, subject.model, subject.inventory, laid_out.modes, name, size, batch_size, threads, rounds)
    if prune:
        if runtime.slow:
            raise PmqError(f"target {target!r} takes too long to build a model to time widths on it; profile without --prune")
        shapes = Shapes(subject, groups_of(laid_out.file, target))
        bench = WidthBench(runtime, shapes.whole, laid_out.modes, size, threads, rounds)
        table = table.model_copy(update={"units": bench.saved(shapes.alike()), "unit_layers": shapes.layers})
        table = bench.corrected(table, shapes.mixed(MIXTURES))
    if out is not None:
        table.save(Path(out))
    return table


def known_latency(
    model: nn.Module,
    target: str,
    results: Path,
    table: Path | None = None,
    threads: int = 1,
    force: bool = False,
    prune: bool = False,
) -> LatencyTable:
    """Give the latency table of a model: from ``table``, or the one kept below ``results``, or measured now and kept.

    Raises:
        PmqError: it is of another model or target, or measured elsewhere and not forced.
    """
    name = model_label(model)
    path = table or latency_path(results, name, target, threads)
    if table is None and not is_file(path):
        message(f"no latency table {str(path)!r} yet: profiling")
        return profile(model, target, threads=threads, prune=prune, out=path)
    found = LatencyTable.load(path)
    found.check(fingerprint(TARGETS[target]), force, model=name, target=target, threads=threads, batch_size=1)
    if prune and not found.units:
        if table is not None:
            raise PmqError(f"latency table {str(path)!r} has no widths; profile with --prune")
        message(f"latency table {str(path)!r} has no widths yet: profiling")
        return profile(model, target, threads=threads, prune=True, out=path)
    return found


def latency_path(results: Path, name: str, target: str, threads: int = 1, batch_size: int = 1) -> Path:
    """Where a latency table is kept; of timm's ``arch.tag`` the tag is in the file's name."""
    tag = name.removeprefix(architecture(name)).strip(".") if ":" not in name else ""
    return results / architecture(name) / f"latency-{target}-b{batch_size}-t{threads}{tag and '-' + tag}.json"
