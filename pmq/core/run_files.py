"""The files of a run: their names, their hashes, and the protection against overwriting them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import check_target, is_file, is_there, quoted, read_bytes

MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"
#: the chosen allocation of a run, below its directory
CHOSEN = Path("allocations") / "chosen.json"
#: the same before its patches had bits of their own
LAYERS = Path("allocations") / "without-patches.json"
#: what each digit of a genome stands for
DECISIONS = Path("decisions.json")
#: the model's components
INVENTORY = Path("inventory.json")
#: the captured graph of the model
GRAPH = Path("graph.json")
#: the quantized model that fine-tuning of uniform bits starts from
START = Path("allocations") / "start.json"
#: cost breakdown of the chosen allocation
SPENT = Path("spent.csv")
#: latency table, in the run of a search with one
LATENCY = Path("latency.json")
#: the front with all simulated points, all other points, the rounds, and the sensitivity table
FRONT, POINTS, ROUNDS, SENSITIVITY = Path("front.csv"), Path("points.csv"), Path("rounds.csv"), Path("sensitivity.csv")
#: record beside a deployed file
DEPLOYMENT = "deployment.json"
#: examples of how a deployed file is loaded and run
USAGE = "deployment.md"
#: folder beside a deployed file that checks it on another device
BUNDLE = "check"

_TENSORS = tuple(path.with_suffix(".safetensors") for path in (CHOSEN, LAYERS))
#: files written when a run finishes, whose hashes the manifest stores
RESULTS = (
    *(FRONT, POINTS, ROUNDS, SENSITIVITY, SPENT, DECISIONS, INVENTORY, GRAPH, LATENCY, CHOSEN, LAYERS, *_TENSORS),
    *(Path("costs.csv"), Path("widths.csv")),
)
#: all files that no other command may overwrite
_PROTECTED = (
    *RESULTS,
    *(START, START.with_suffix(".safetensors")),
    *map(Path, (MANIFEST, JOURNAL, "state.safetensors", "rank.csv", "allocations.csv", "allocations/schema.json")),
)


def hashes(run: Path) -> dict[str, str]:
    """Return the SHA-256 of each of a run's result files, by name."""
    return {name.as_posix(): _sha256(run / name) for name in RESULTS if is_file(run / name)}


def unchanged(run: Path, known: Mapping[str, str], name: Path) -> Path | None:
    """Return the path of a run's result file after checking it against the ``known`` hashes; None if there is no such file.

    Raises:
        PmqError: the file differs from what the run wrote, or is missing.
    """
    path, expected = run / name, known.get(name.as_posix())
    what, remedy = f"{name.as_posix()} of the run in {quoted(run)}", "put it back, or search again with another `out`"
    if not is_there(path, "file"):
        if expected is not None:
            raise PmqError(f"{what} is missing; {remedy}")
        return None
    if expected is not None and (digest := _sha256(path)) != expected:
        hint = f"; if it was changed on purpose, give the file itself: {quoted(path)}" if name in (CHOSEN, LAYERS) else ""
        raise PmqError(f"{what} is not as the run wrote it (SHA-256 {digest[:12]}, not {expected[:12]}); {remedy}{hint}")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def check_output(path: Path, suffix: str, inputs: Iterable[Path | str | None] = (), beside: Iterable[str] = ()) -> Path:
    """Raise, before any work is done, if a verb must not write the file that its user names.

    Args:
        path: the file.
        suffix: suffix that it must have.
        inputs: files that the same verb reads.
        beside: suffixes of files that are written beside it.

    Raises:
        PmqError: the file has another suffix, is one of a run's own files or of ``inputs``, or cannot be written.
    """
    check_target(path)
    if path.suffix.lower() != suffix:
        raise PmqError(f"cannot write {quoted(path)}: a {suffix} file is written; use that suffix")
    sources = [Path(each) for each in inputs if each is not None]
    for target in (path, *(path.with_suffix(each) for each in beside)):
        if _is_protected(target):
            raise PmqError(f"cannot write {quoted(target)}: it is one of a run's own files; choose another name")
        if any(_is_same(target, each) for each in sources):
            raise PmqError(f"cannot write {quoted(target)}: it is what this command reads; choose another name")
        if is_file(target) and not is_file(path):
            raise PmqError(f"cannot write {quoted(target)}: it exists, but does not belong to {path.name!r}; choose another name")
        check_target(target)
    return path


def _is_protected(path: Path) -> bool:
    resolved = Path(os.path.realpath(path))  # unlike pathlib it does not follow loops forever
    if resolved.name == DEPLOYMENT:
        return is_file(resolved)
    folders = [folder for folder in list(resolved.parents)[:2] if is_file(folder / MANIFEST)]
    return any(resolved.relative_to(folder) in _PROTECTED for folder in folders)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return False
