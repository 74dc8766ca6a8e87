"""``python -m pmq.bench.full_set --images 50000``: evaluate a whole data set, and the same killed several times and resumed.

Generates JPEG files of 224 pixels in a temporary folder, evaluates the embedded model on them by the command line, undisturbed
and with SIGKILL at equal parts of the way, and compares the figures and the memory after the first shard and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pmq.cli.output import print_json
from pmq.core.progress import message, track

CLASSES, PIXELS, COARSE = 10, 224, 14
#: calibration images of uniform bits
CALIBRATION = 64
#: seconds between looks at a process
TICK = 0.1


@dataclass
class Watched:
    """A command that was watched until its end or its kill.

    Attributes:
        answer: the JSON that it printed, or None if it was killed.
        seconds: its duration.
        megabytes: resident memory of the process at each look after its first finished shard.
        shards: number of shards that were finished at the end.
    """

    answer: dict[str, Any] | None
    seconds: float
    megabytes: list[float] = field(default_factory=list)
    shards: int = 0


def generate(folder: Path, count: int, seed: int = 0) -> None:
    """Write JPEG files of smooth noise into class folders of ``val``, and a few into those of ``train``."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", 2 * CALIBRATION), ("val", count)):
        for label in range(CLASSES):
            (folder / split / f"{label}").mkdir(parents=True)
        for index in track(range(number), f"generating {split}"):
            coarse = Image.fromarray(rng.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8))
            picture = coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
            picture.save(folder / split / str(index % CLASSES) / f"{index:06d}.jpg", quality=85)


def evaluate(folder: Path, what: str, flags: list[str], kill_after: int | None = None) -> Watched:
    """Run ``pmq evaluate`` in a folder that has the images in ``images``; kill it after a number of finished shards."""
    line = [sys.executable, "-m", "pmq", "evaluate", what, "--data", "images", "--calib-images", str(CALIBRATION), "--json"]
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([*line, *flags], cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    watched = Watched(None, 0.0)
    while process.poll() is None:
        time.sleep(TICK)
        finished = sum(file.read_bytes().count(b"\n") for file in folder.glob("results/.learned/evaluated-*/journal.jsonl"))
        watched.shards = max(finished, watched.shards)
        if finished:
            watched.megabytes.append(_resident_mb(process.pid))
        if kill_after is not None and finished >= kill_after:
            process.send_signal(signal.SIGKILL)
            break
    output = process.communicate()[0]
    watched.seconds = time.monotonic() - start
    watched.answer = json.loads(output) if process.returncode == 0 else None
    return watched


def _resident_mb(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended meanwhile
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def compare(folder: Path, what: str, flags: list[str], kills: int) -> dict[str, Any]:
    """Evaluate undisturbed and disturbed, and return what was seen."""
    undisturbed = evaluate(folder, what, flags)
    assert undisturbed.answer is not None, "the undisturbed evaluation failed"
    message(f"undisturbed: {undisturbed.seconds:.1f} s, {undisturbed.shards} shards")
    seconds, at = 0.0, []
    for kill in range(1, kills + 1):
        killed = evaluate(folder, what, flags, kill * undisturbed.shards // (kills + 1))
        assert killed.answer is None, "the evaluation ended before it was killed"
        at.append(killed.shards)
        seconds += killed.seconds
        message(f"killed after {killed.shards} shards, {killed.seconds:.1f} s")
    resumed = evaluate(folder, what, flags)
    memory = [megabytes for megabytes in undisturbed.megabytes if megabytes]
    quarter = max(1, len(memory) // 4)
    return {
        "images": _figures(undisturbed.answer)[0]["n_images"],
        "same_figures": _figures(undisturbed.answer) == _figures(resumed.answer),
        "killed_after_shards": at,
        "seconds": undisturbed.seconds,
        "seconds_with_kills": seconds + resumed.seconds,
        "images_per_s": _figures(undisturbed.answer)[0]["n_images"] / undisturbed.seconds,
        "mb_after_first_shard": memory[0],
        "mb_first_quarter": max(memory[:quarter]),
        "mb_last_quarter": max(memory[-quarter:]),
        "left_behind": len(list(folder.glob("results/.learned/evaluated-*"))),
        "figures": _figures(undisturbed.answer),
    }


def _figures(answer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rows of an answer without what a clock measures."""
    if answer is None:
        return []
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in answer.get("results", [answer])]


def main() -> None:
    """Generate the images, compare, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--what", default="w4a4,fp32", help="allocations to evaluate, all in one pass")
    parser.add_argument("flags", nargs="*", help="further flags of pmq evaluate, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pmq-full-set-") as temporary:
        folder = Path(temporary)
        generate(folder / "images", args.images)
        print_json(compare(folder, args.what, args.flags, args.kills))


if __name__ == "__main__":
    main()
