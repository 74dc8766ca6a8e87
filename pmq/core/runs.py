"""All runs below a folder, as far as their files tell of them."""

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
    """A run.

    Attributes:
        state: ``searched``, ``pruned``, or ``unfinished``.
        changed: seconds since 1970 at which its manifest was written last.
        size_bytes, bit_ops, latency_ms: what the chosen allocation costs.
        agreement, error: of it on the images that judged it: percent of FP32's decisions, and KL or relative error.
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
        """All of it, for JSON."""
        return asdict(self) | {"path": str(self.path)}


def list_runs(results: Path) -> list[Listed]:
    """Find runs below a folder, the one that changed last first; what cannot be read is told and passed over.

    Raises:
        PmqError: there is no such folder.
    """
    if not is_dir(results):
        raise PmqError(f"folder {quoted(results)} does not exist; `pmq search` makes runs below results")
    found = []
    for file in sorted(results.rglob(MANIFEST)):
        try:
            found.append(_listed(file.parent, file.stat().st_mtime))
        except (PmqError, OSError) as error:  # the latter of what was removed meanwhile
            message(f"passed over: {error}")
    return sorted(found, key=lambda run: (-run.changed, str(run.path)))


def listed(path: Path) -> Listed:
    """A single run.

    Raises:
        PmqError: it is none, or cannot be read.
    """
    if not is_file(path / MANIFEST):
        raise PmqError(f"{quoted(path)} is no run directory: it has no manifest.json; `pmq search` makes one")
    return _listed(path, (path / MANIFEST).stat().st_mtime)


def differences(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Components whose choice is not the same in all runs, with the label of each; a dash where a run has none of it."""
    chosen = [Allocation.load(path / CHOSEN, carried_out=False).components for path in paths]
    names = dict.fromkeys(name for components in chosen for name in components)
    rows = {name: [components[name].label if name in components else "-" for components in chosen] for name in names}
    return {name: labels for name, labels in rows.items() if len(set(labels)) > 1}


def _listed(path: Path, changed: float) -> Listed:
    manifest = known_manifest(path)
    state = "searched" if manifest.chosen else "pruned" if manifest.pruned else "unfinished"
    asked, told = manifest.settings, manifest.settings.get("model")
    model = str(told.get("name")) if isinstance(told, dict) else "unknown"
    budget = asked.get("budget") if isinstance(asked.get("budget"), str) else None
    if not is_file(path / CHOSEN):
        return Listed(path, model, budget, state, changed)
    allocation = Allocation.load(path / CHOSEN, carried_out=False)
    costs = allocation.budget.achieved if allocation.budget else {}
    metrics = allocation.metrics if manifest.pruned is None else manifest.pruned.model_dump()
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
