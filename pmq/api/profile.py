"""The verb ``profile``."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pmq.core.run_files import check_output
from pmq.cost import LatencyTable
from pmq.optimize import SpaceFile
from pmq.pipeline.latency_tables import profile_model
from pmq.pipeline.torch_modes import undisturbed
from pmq.runtimes.bench import ROUNDS


@undisturbed
def profile(
    model: nn.Module | str | None,
    target: str = "onnxruntime",
    *,
    space: str | SpaceFile | None = None,
    batch_size: int = 1,
    threads: int = 1,
    n_passes: int = ROUNDS,
    prune: bool = False,
    file: Path | str | None = None,
) -> LatencyTable:
    """Measure the latency of every layer of a model at every choice, in a runtime on this machine.

    Args:
        model: a module built by timm (left unchanged), a timm name, or ``None`` for the embedded model. Weights do not matter.
        target: the runtime, see :mod:`pmq.runtimes`.
        space: search space whose choices are measured; by default that of the target.
        batch_size: images in a forward pass.
        threads: threads of the runtime.
        n_passes: timed passes of each comparison; more passes give a steadier table.
        prune: also measure the widths that a search with ``SearchOptions(prune=True)`` may choose.
        file: JSON file to write the table to.

    Returns:
        The table, in milliseconds.

    Raises:
        PmqError: the target's packages are missing, or the space has a choice that the target cannot run.
    """
    if file is not None:
        check_output(Path(file), ".json")
    table = profile_model(model, target, space, batch_size, threads, n_passes, prune)
    if file is not None:
        table.save(Path(file))
    return table
