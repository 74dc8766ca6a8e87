"""Latency tables: profiled, stored below the results folder, and loaded again."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pmq.core import PmqError
from pmq.core.files import is_file
from pmq.core.paths import architecture
from pmq.core.progress import message
from pmq.core.run_files import check_output
from pmq.cost import LatencyTable
from pmq.cost.latency import kernel_key
from pmq.models import model_label
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.search.width_options import Shapes, groups_of
from pmq.pipeline.subject import Subject
from pmq.runtimes import TARGETS
from pmq.runtimes.bench import ROUNDS
from pmq.runtimes.profile import fingerprint, profile_layers
from pmq.runtimes.width_latency import MIXTURES, WidthBench

#: measurements of a table before one that noise made negative is returned
ATTEMPTS = 3


def profile_model(
    model: nn.Module | str | None,
    target: str,
    space: str | SpaceFile | None = None,
    batch_size: int = 1,
    threads: int = 1,
    n_passes: int = ROUNDS,
    prune: bool = False,
) -> LatencyTable:
    """Measure a latency table on this machine; see :func:`pmq.profile` for the arguments.

    Raises:
        PmqError: the target's packages are missing, or the space has a choice that the target cannot run.
    """
    runtime = TARGETS[target]
    runtime.require()
    if runtime.whole:
        why = f"files of target {target!r} are for NPUs, whose milliseconds cannot be measured here"
        raise PmqError(f"{why}; search with a `budget` of bit operations, such as bitops=20G")
    subject = Subject.of(model, "cpu")
    profiled = Space(read_space(space or target), subject.inventory)
    for layer, modes in profiled.modes.items():
        for weight, source in modes:
            runtime.check_layer(layer, weight, source)
    name, size = model_label(subject.module), subject.info.data_config["input_size"]
    # modes that share a kernel are measured once, by the one with the most bits
    modes_by_layer = {layer: list({kernel_key(*m): m for m in modes}.values()) for layer, modes in profiled.modes.items()}
    inventory = subject.inventory
    for attempt in range(ATTEMPTS):
        table = profile_layers(runtime, subject.model, inventory, modes_by_layer, name, size, batch_size, threads, n_passes)
        if fastest_ms(table) > 0:
            break
        if attempt < ATTEMPTS - 1:
            message("the measured layers take no time at all: another job disturbed the measurement; measuring again")
    if not prune:
        return table
    if runtime.slow:
        raise PmqError(f"target {target!r} takes too long to build a model for every width; profile with `prune=False`")
    shapes = Shapes(subject, groups_of(profiled.file, target))
    bench = WidthBench(runtime, shapes.whole, modes_by_layer, size, threads, n_passes)
    table = table.model_copy(update={"units": bench.saved(shapes.alike()), "unit_layers": shapes.layers})
    return bench.updated(table, shapes.mixed(MIXTURES))


def fastest_ms(table: LatencyTable) -> float:
    """Return the milliseconds of a model with each layer at its fastest choice; noise can make them negative."""
    return table.rest_ms + sum(min(row.values()) for row in table.layers.values())


def known_latency(
    model: nn.Module,
    target: str,
    results: Path,
    table: Path | None = None,
    threads: int = 1,
    force: bool = False,
    prune: bool = False,
) -> LatencyTable:
    """Return the latency table of a model: the file ``table``, or the one stored below ``results``, or a new measurement.

    A new measurement is stored below ``results``.

    Raises:
        PmqError: the table is of another model or target, or was measured on another machine and is not forced.
    """
    name = model_label(model)
    path = table or latency_path(results, name, target, threads)
    if table is None and not is_file(path):
        message(f"no latency table {str(path)!r} yet: profiling")
        return _measured(model, target, threads, prune, path)
    known = LatencyTable.load(path)
    known.check(fingerprint(TARGETS[target]), force, model=name, target=target, threads=threads, batch_size=1)
    if prune and not known.units:
        if table is not None:
            raise PmqError(f"latency table {str(path)!r} has no widths; profile again with `prune`")
        message(f"latency table {str(path)!r} has no widths yet: profiling")
        return _measured(model, target, threads, True, path)
    return known


def latency_path(results: Path, name: str, target: str, threads: int = 1, batch_size: int = 1) -> Path:
    """Return the path of a latency table; of timm's ``arch.tag`` the tag is in the file's name."""
    tag = name.removeprefix(architecture(name)).strip(".") if ":" not in name else ""
    return results / architecture(name) / f"latency-{target}-b{batch_size}-t{threads}{tag and '-' + tag}.json"


def _measured(model: nn.Module, target: str, threads: int, prune: bool, path: Path) -> LatencyTable:
    check_output(path, ".json")
    table = profile_model(model, target, threads=threads, prune=prune)
    table.save(path)
    return table
