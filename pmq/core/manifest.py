"""The manifest of a run: its settings, its outcome, and the hashes of its files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError
from pmq.core.files import is_dir, is_file, is_there, quoted, read_json, write_text
from pmq.core.progress import message
from pmq.core.recipe import Recipe
from pmq.core.run_files import MANIFEST, hashes
from pmq.core.validation import validated

#: key in the manifest of a finished search
CHOOSES = "chosen"
#: key in the manifest of a pruned model, whose chosen allocation is in FP32
PRUNED = "pruned"
#: key in the manifest of a quantized model that was fine-tuned
FINETUNED = "finetuned"


class _Lenient(BaseModel):
    """Base of types that ignore unknown keys, which older or newer versions wrote."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Command(_Lenient):
    """How a run was started: its command line, and the flags that determine model and images."""

    line: str | None = None
    model: str | None = None
    base: str | None = None
    checkpoint: str | None = None
    num_classes: int | None = Field(default=None, ge=0)
    model_kwargs: list[str] | None = None
    input_size: tuple[int, int, int] | None = None
    img_size: int | None = None
    in_chans: int | None = None
    gp: str | None = None
    output: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str | None = None
    pretrained: bool | None = None
    data: str | None = None
    dataset: str | None = None
    input_key: str | None = None
    target_key: str | None = None
    class_map: str | None = None
    class_order: str | None = None
    split: str | None = None
    crop_pct: float | None = Field(default=None, gt=0, le=1)


class Ranking(_Lenient):
    """Kendall's tau of predictions, with its interval, over ``n`` allocations."""

    tau: float | None
    low: float | None
    high: float | None
    n: int


class Figures(_Lenient):
    """Accuracy and costs of a pruned or fine-tuned model."""

    top1: float | None = None
    agreement: float | None = None
    kl: float | None = None
    feature_error: float | None = None
    size_bytes: float | None = None
    bit_ops: float | None = None


class Images(_Lenient):
    """Hash and number of images."""

    sha256: str
    n_images: int


class Asked(_Lenient):
    """The settings of a search."""

    model: ModelInfo
    budget: str
    space: dict[str, Any]
    recipe: Recipe
    metric: str
    widths: list[Any] | None = None
    latency: str | None = None
    held_out: Images | None = None
    seed: int | None = None
    batch_size: int | None = None
    device: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class Manifest(_Lenient):
    """A manifest.

    Attributes:
        settings: what determines the result; :meth:`asked` are those of a search.
        command: how it was started.
        chosen: the chosen allocation's file, once a search has finished.
        pruned: figures of a pruned model, once it is made.
        finetuned: figures of a quantized model, once it is fine-tuned.
        limits: the budget in figures.
        ranking: how well predictions ranked what was simulated.
        seconds: that its parts took.
        resumed: whether an earlier process did part of it.
        macs_searched, bytes_searched: percent of the multiply-accumulates, and of the weights' bytes, that it decided about.
        files: SHA-256 of its results.
    """

    settings: dict[str, Any] = Field(default_factory=dict)
    command: Command | None = None
    chosen: str | None = None
    pruned: Figures | None = None
    finetuned: Figures | None = None
    limits: dict[str, float | None] = Field(default_factory=dict)
    ranking: dict[str, Ranking] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    resumed: bool = False
    macs_searched: float | None = Field(default=None, ge=0)
    bytes_searched: float | None = Field(default=None, ge=0)
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def unsearched(self) -> Figures | None:
        """The figures of a pruned or fine-tuned model, whose folder holds no search; None for a search."""
        return self.pruned or self.finetuned

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return any(outcome is not None for outcome in (self.chosen, self.pruned, self.finetuned))

    def asked(self, run: Path) -> Asked:
        """The settings, of the search in ``run``."""
        return validated(Asked, self.settings, f"settings in {quoted(run / MANIFEST)}")


def read_manifest(path: Path) -> Manifest:
    """Read a finished run's manifest.

    Raises:
        PmqError: ``path`` is no run directory, or the run did not finish, or its manifest is damaged.
    """
    if not is_file(path / MANIFEST):
        raise PmqError(f"{quoted(path)} is no run directory: it has no manifest.json; `pmq search` makes one")
    manifest = known_manifest(path)
    if not manifest.finished:
        raise PmqError(f"the run in {quoted(path)} did not finish; go on with `pmq search --resume --out {path}`")
    return manifest


def known_manifest(path: Path) -> Manifest:
    """Return the manifest of a folder, finished or not; an empty one where there is none."""
    return validated(Manifest, read_facts(path), f"manifest {quoted(path / MANIFEST)}")


def read_facts(path: Path) -> dict[str, Any]:
    """Return the contents of a folder's manifest; an empty dictionary where there is none."""
    file = path / MANIFEST
    facts: dict[str, Any] = _plain(read_json(file, "manifest", lenient=True)) if is_there(file, "manifest") else {}
    return facts


def add_to_manifest(path: Path, facts: dict[str, Any]) -> None:
    """Add facts to the manifest of a folder, creating it if needed; with the outcome also the hashes of the result files."""
    if facts.keys() & {CHOOSES, PRUNED, FINETUNED}:
        facts = facts | {"files": hashes(path)}
    write_text(path / MANIFEST, json.dumps(read_facts(path) | _plain(facts), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """Replace NaN and infinity by None, as JSON has neither."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_finished(path: Path) -> bool:
    """Whether a folder holds a run that finished, or a pruned or fine-tuned model."""
    return known_manifest(path).finished


def is_pruned(path: Path) -> bool:
    """Whether a folder holds a pruned model, and no search."""
    return known_manifest(path).pruned is not None


def latest_run(results: Path) -> Path:
    """Return the run below ``results`` that finished last; runs that cannot be read are skipped with a message.

    Raises:
        PmqError: there is no finished run.
    """
    finished: dict[Path, float] = {}
    for file in sorted(results.glob(f"*/*/{MANIFEST}")) if is_dir(results) else []:
        try:
            if known_manifest(file.parent).chosen is not None:
                finished[file.parent] = file.stat().st_mtime
        except (PmqError, OSError) as error:  # OSError: the run was removed meanwhile
            message(f"passed over: {error}")
    if not finished:
        raise PmqError(f"no finished run below {quoted(results)}; make one with `pmq search`")
    return max(finished, key=lambda run: finished[run])
