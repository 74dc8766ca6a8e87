"""Whether what a command did is right: a sane result, or one line that refuses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

#: what a folder held before: path below it, then what tells whether it changed
Snapshot = dict[str, tuple[Any, ...]]

PERCENTAGES = ("top1", "top5", "agreement", "amp_agreement", "agreement_simulated", "agreement_fp32")
ERRORS = ("kl", "feature_error", "predicted_error")
POSITIVE = ("size_bytes", "bit_ops", "latency_ms", "images_per_s", "n_images", "parameters")
FILES = ("allocation", "schema", "report", "run", "file", "table", "files")
WARNING = re.compile(r"^\S+\.py:\d+: \w*Warning: ", re.MULTILINE)


def judge(status: int, out: str, err: str, folder: Path) -> tuple[str, str | None]:
    """Give ``success`` or ``refused``, and the fault, if there is one."""
    told = [line for line in err.splitlines() if line.startswith("pmq: ")]
    usage = "Usage: " in err and "╭─ Error" in err  # typer's own box, for flags it does not know
    if "Traceback" in err or "Traceback" in out:
        return "failure", f"traceback: {err.strip().splitlines()[-1][:300] if err.strip() else ''}"
    if found := WARNING.search(err):
        return "failure", f"a warning of Python's: {err[found.start() :].splitlines()[0][:300]}"
    if status == 2:
        if not (usage or (len(told) == 1 and err.rstrip().splitlines()[-1:] == told)):
            return "failure", f"exit status 2 with {len(told)} lines of ours: {err[-300:]!r}"
        return "refused", None if not out.strip() else f"refused, but printed {out[:100]!r}"
    if status != 0:
        return "failure", f"exit status {status}: {err[-300:]!r}"
    try:
        answer = json.loads(out, parse_constant=_no_constant)
    except ValueError as error:
        return "failure", f"what was printed is no JSON: {error}: {out[:100]!r}"
    wrong = list(insane(answer, folder))
    if _without_error(answer) and not err.strip():
        wrong.append("no error at the output, and no reason given")
    return "success", "; ".join(wrong[:3]) or None


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def insane(answer: Any, folder: Path, key: str = "") -> Iterable[str]:
    """Name figures that cannot be, and files that are not there."""
    if isinstance(answer, dict):
        for name, of in answer.items():
            yield from insane(of, folder, "" if "images_per_s" in answer and name == "allocation" else name)  # there a name
    elif isinstance(answer, list):
        for of in answer:
            yield from insane(of, folder, key)
    elif isinstance(answer, str):
        if key in FILES and not (folder / answer).exists():
            yield f"{key} {answer!r} does not exist"
    elif isinstance(answer, int | float) and not isinstance(answer, bool):
        if not math.isfinite(answer):
            yield f"{key} is {answer}"
        elif (key in PERCENTAGES and not 0 <= answer <= 100) or (key == "probability" and not 0 <= answer <= 1 + 1e-6):
            yield f"{key} is {answer}, no share"
        elif (key in ERRORS and answer < 0) or (key in POSITIVE and answer <= 0):
            yield f"{key} is {answer}"


def _without_error(answer: Any) -> bool:
    if isinstance(answer, dict) and "kl" in answer:
        return answer["kl"] is None and answer.get("feature_error") is None
    return isinstance(answer, dict) and any(_without_error(of) for of in answer.get("results", []))


def snapshot(folder: Path) -> Snapshot:
    """What is in a folder: for files their times, sizes and numbers; links and others by what they are."""
    found: Snapshot = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        kind = stat.st_mode & 0o170000
        found[str(path.relative_to(folder))] = (kind, stat.st_size, stat.st_mtime_ns, stat.st_ino) if path.is_file() else (kind,)
    return found


def disturbed(folder: Path, before: Snapshot, writes: Iterable[str]) -> Iterable[str]:
    """Name files that are gone, changed, half written or where none belongs; ``writes`` may appear and change."""
    after = snapshot(folder)
    for name in sorted(before.keys() - after.keys()):
        yield f"{name} is gone"
    for name, seen in sorted(after.items()):
        path = folder / name
        if name.endswith(".tmp"):
            yield f"{name} is left"
        elif not any(fnmatch(name, pattern) for pattern in writes):
            if name not in before:
                yield f"{name} was written"
            elif seen != before[name] and path.is_file():  # folders change with what is written into them
                yield f"{name} changed"
        elif seen != before.get(name) and path.is_file() and (fault := unreadable(path)):
            yield f"{name} is half written: {fault}"


def unreadable(path: Path) -> str | None:
    """Why a file that was written cannot be read, if so."""
    data = path.read_bytes()
    if not data:
        return "empty"
    try:
        if path.suffix == ".json":
            json.loads(data, parse_constant=_no_constant)
        elif path.suffix in (".csv", ".html", ".svg", ".jsonl"):
            text = data.decode()
            endings = {".html": "</html>", ".svg": "</svg>"}
            return None if text.rstrip().endswith(endings.get(path.suffix, "")) else "its end is missing"
        elif path.suffix == ".safetensors":
            from safetensors.numpy import load

            load(data)
        elif path.suffix == ".png" and not data.rstrip().endswith(b"IEND\xaeB`\x82"):
            return "its end is missing"
    except ValueError as error:
        return str(error)[:200]
    return None
