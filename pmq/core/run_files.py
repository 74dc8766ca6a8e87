"""The files of a run: their names, what they were when it was done, and that nothing else is written over them."""

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
#: the graph that was captured of it
GRAPH = Path("graph.json")
#: where the chosen allocation's bytes, bit operations and milliseconds go
SPENT = Path("spent.csv")
#: measured milliseconds, in the run of a search that knew them
LATENCY = Path("latency.json")
#: the front with what was simulated, all other points, rounds, and errors by component
FRONT, POINTS, ROUNDS, SENSITIVITY = Path("front.csv"), Path("points.csv"), Path("rounds.csv"), Path("sensitivity.csv")
#: what is written beside a deployed file
DEPLOYMENT = "deployment.json"

_TENSORS = tuple(path.with_suffix(".safetensors") for path in (CHOSEN, LAYERS))
#: written once, when a run is done, which then knows their hashes
RESULTS = (
    *(FRONT, POINTS, ROUNDS, SENSITIVITY, SPENT, DECISIONS, INVENTORY, GRAPH, LATENCY, CHOSEN, LAYERS, *_TENSORS),
    *(Path("costs.csv"), Path("widths.csv")),
)
#: beside these what no other command may write over
_OWN = (*RESULTS, *map(Path, (MANIFEST, JOURNAL, "state.safetensors", "rank.csv", "allocations.csv", "allocations/schema.json")))


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of each of a run's results, by its name."""
    return {name.as_posix(): _sha256(run / name) for name in RESULTS if is_file(run / name)}


def unchanged(run: Path, known: Mapping[str, str], name: Path) -> Path | None:
    """Give the path of one of a run's results if it is as ``known`` says, or nothing is known of it; nothing if there is none.

    Raises:
        PmqError: the file differs from what the run wrote, or is gone.
    """
    path, wanted = run / name, known.get(name.as_posix())
    said, again = f"{name.as_posix()} of the run in {quoted(run)}", "put it back, or search anew with another --out"
    if not is_there(path, "file"):
        if wanted is not None:
            raise PmqError(f"{said} is missing; {again}")
        return None
    if wanted is not None and (found := _sha256(path)) != wanted:
        own = f"; if it was changed on purpose, give the file itself: {quoted(path)}" if name in (CHOSEN, LAYERS) else ""
        raise PmqError(f"{said} is not as the run wrote it (SHA-256 {found[:12]}, not {wanted[:12]}); {again}{own}")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def check_output(path: Path, suffix: str, inputs: Iterable[Path | str | None] = (), beside: Iterable[str] = ()) -> Path:
    """Raise, before any work is done, if a command should not write the file that its user names.

    Args:
        path: the file.
        suffix: that it must have.
        inputs: files that the same command reads, as far as there are any.
        beside: suffixes of files that are written beside it.

    Raises:
        PmqError: it is called otherwise, or is one of a run's own files, or one of ``inputs``, or cannot be written.
    """
    check_target(path)
    if path.suffix.lower() != suffix:
        raise PmqError(f"cannot write {quoted(path)}: what is written is a {suffix} file; call it so")
    given = [Path(each) for each in inputs if each is not None]
    for target in (path, *(path.with_suffix(each) for each in beside)):
        if _is_own(target):
            raise PmqError(f"cannot write {quoted(target)}: it is one of a run's own files; choose another name")
        if any(_is_same(target, each) for each in given):
            raise PmqError(f"cannot write {quoted(target)}: it is what this command reads; choose another name")
        if is_file(target) and not is_file(path):
            raise PmqError(f"cannot write {quoted(target)}: it is there, but not for {path.name!r}; choose another name")
        check_target(target)
    return path


def _is_own(path: Path) -> bool:
    resolved = Path(os.path.realpath(path))  # which, unlike pathlib, follows no loop for ever
    if resolved.name == DEPLOYMENT:
        return is_file(resolved)
    folders = [folder for folder in list(resolved.parents)[:2] if is_file(folder / MANIFEST)]
    return any(resolved.relative_to(folder) in _OWN for folder in folders)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return False
