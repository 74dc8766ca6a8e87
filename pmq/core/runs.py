"""The runs below a folder, as their files describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pmq.core.allocation import Allocation
from pmq.core.errors import PmqError
from pmq.core.files import is_dir, is_file, quoted
from pmq.core.manifest import known_manifest
from pmq.core.progress import message
from pmq.core.run_files import CHOSEN, MANIFEST


@dataclass(frozen=True)
class Listed:
    """Summary of a run.

    Attributes:
        state: ``searched``, ``pruned``, or ``unfinished``.
        changed: seconds since 1970 at which its manifest was last written.
        size_bytes, bit_ops, latency_ms: costs of the chosen allocation.
        agreement, error: agreement with FP32 (percent) and KL or relative error of the chosen allocation.
    """

    path: Path
    model: str
    budget: str | None
    state: str
    changed: float
    size_bytes: float | None = None
    bit_ops: float | None = None
    latency_ms: float | None = None
    agreement: float | None = None
    error: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return all fields for JSON."""
        return asdict(self) | {"path": str(self.path)}


def list_runs(results: Path) -> list[Listed]:
    """Find the runs below a folder, the latest first; runs that cannot be read are skipped with a message.

    Raises:
        PmqError: there is no such folder.
    """
    if not is_dir(results):
        raise PmqError(f"folder {quoted(results)} does not exist; `pmq search` makes runs below results")
    runs = []
    for file in sorted(results.rglob(MANIFEST)):
        try:
            runs.append(_listed(file.parent, file.stat().st_mtime))
        except (PmqError, OSError) as error:  # OSError: the run was removed meanwhile
            message(f"passed over: {error}")
    return sorted(runs, key=lambda run: (-run.changed, str(run.path)))


def listed(path: Path) -> Listed:
    """Return the summary of a single run.

    Raises:
        PmqError: the folder is no run directory, or it cannot be read.
    """
    if not is_file(path / MANIFEST):
        raise PmqError(f"{quoted(path)} is no run directory: it has no manifest.json; `pmq search` makes one")
    return _listed(path, (path / MANIFEST).stat().st_mtime)


def differences(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Return the components whose choice differs between runs, with a label for each run; a dash where a run lacks it."""
    chosen = [Allocation.load(path / CHOSEN, with_tensors=False).components for path in paths]
    names = dict.fromkeys(name for components in chosen for name in components)
    rows = {name: [components[name].label if name in components else "-" for components in chosen] for name in names}
    return {name: labels for name, labels in rows.items() if len(set(labels)) > 1}


def _listed(path: Path, changed: float) -> Listed:
    manifest = known_manifest(path)
    states = {"searched": manifest.chosen, "pruned": manifest.pruned, "fine-tuned": manifest.finetuned}
    state = next((name for name, outcome in states.items() if outcome is not None), "unfinished")
    settings, info = manifest.settings, manifest.settings.get("model")
    model = str(info.get("name")) if isinstance(info, dict) else "unknown"
    budget = settings.get("budget") if isinstance(settings.get("budget"), str) else None
    if not is_file(path / CHOSEN):
        return Listed(path, model, budget, state, changed)
    allocation = Allocation.load(path / CHOSEN, with_tensors=False)
    costs = allocation.budget.achieved if allocation.budget else {}
    metrics = allocation.metrics if manifest.unsearched is None else manifest.unsearched.model_dump()
    error = metrics.get("kl") if metrics.get("kl") is not None else metrics.get("feature_error")
    return Listed(
        path,
        allocation.model.name,
        budget,
        state,
        changed,
        size_bytes=costs.get("size_bytes"),
        bit_ops=costs.get("bit_ops"),
        latency_ms=costs.get("latency_ms"),
        agreement=metrics.get("agreement"),
        error=error,
    )
