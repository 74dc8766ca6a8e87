"""Kills, full disks, closed pipes and rivals: what was measured stays, and the second run gives the undisturbed result.

``make chaos KILLS=200 [SEED=]``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.campaigns.commands import COMMANDS, JOURNAL, Command
from tests.campaigns.process import ROOT, Ended, run
from tests.campaigns.sameness import Reference, files, lost_and_doubled
from tests.campaigns.verdict import unreadable

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WAYS = ("kill", "disk", "stream", "rivals")


@dataclass
class Trial:
    """A disturbance of a command, and what is wrong with what came of it."""

    way: str
    command: str
    what: str
    faults: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    ended: str = ""


@dataclass
class Stage:
    """Where commands are run: folders below ``place``, seeds, and what undisturbed runs gave.

    Attributes:
        place: of all folders.
        seeds: whole files.
        references: by the names of commands.
        usual: how an undisturbed run ended.
    """

    place: Path
    seeds: Path
    references: dict[str, Reference] = field(default_factory=dict)
    usual: dict[str, Ended] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: int = 0

    def folder(self, command: Command) -> Path:
        """Make a new folder with what the command reads."""
        with self._lock:
            self._made += 1
            folder = self.place / f"{self._made:04d}" / "work"
        folder.mkdir(parents=True)
        command.lay_out(self.seeds, folder)
        return folder

    def undisturbed(self, command: Command) -> list[str]:
        """Run a command twice by itself, and keep what both left; give what is wrong with that."""
        folders = [self.folder(command) for _ in range(2)]
        ended = [run(command.line, folder) for folder in folders]
        faults = [f"exit status {e.status}: {e.err[-300:]!r}" for e in ended if e.status != 0]
        reference = Reference(*folders, command.exact)
        self.references[command.name], self.usual[command.name] = reference, min(ended, key=lambda e: e.seconds)
        return faults + reference.faults


def killed(stage: Stage, command: Command, rng: Random) -> Trial:
    """Send a signal at a random moment or file operation, and run the command again."""
    usual, folder, number = stage.usual[command.name], stage.folder(command), rng.choice(SIGNALS)
    fraction, late = rng.random(), rng.random() < 0.5
    operation = after = None
    if usual.operations and rng.random() < 0.5:  # the last ones write results, most others are a journal's
        first = max(usual.operations - 30, 0) if late else 0
        operation = first + 1 + int(fraction * (usual.operations - first))
        trial = Trial("kill", command.name, f"{number.name} at file operation {operation} of {usual.operations}")
    else:
        after = fraction * usual.seconds
        trial = Trial("kill", command.name, f"{number.name} after {after:.2f} of {usual.seconds:.2f} s")
    first_time = run(command.line, folder, number=number, after=after, operation=operation or 0)
    trial.ended = f"exit status {first_time.status}"
    trial.faults += stopped_wrongly(first_time, number)
    again(stage, command, folder, trial)
    return trial


def stopped_wrongly(ended: Ended, number: signal.Signals) -> Iterator[str]:
    """Name what is wrong with how a command answered a signal."""
    if "Traceback" in ended.err:
        yield f"traceback: {ended.err[-400:]!r}"
    if ended.status == 0 or number == signal.SIGKILL or ended.out.strip():  # it was done before, or was not asked
        return
    told = [line for line in ended.err.splitlines() if line.startswith("pmq: ")]
    if ended.status != 128 + number or len(told) != 1:
        yield f"{number.name}: exit status {ended.status}, {len(told)} lines: {ended.err[-300:]!r}"


def full(stage: Stage, command: Command, rng: Random) -> Trial:
    """Let no file be larger than some bytes, as if the disk were full; then run the command again."""
    folder, written = stage.folder(command), stage.references[command.name]
    sizes = sorted(path.stat().st_size for path in files(written.folder).values())
    largest = rng.choice([0, 1, 1000, rng.choice(sizes) // 2, sizes[-1] // 2, sizes[-1] - 1])
    trial = Trial("disk", command.name, f"files of at most {largest} bytes")
    ended = run(command.line, folder, largest=largest)
    trial.ended = f"exit status {ended.status}"
    trial.faults += refused_wrongly(ended, (0, 2))
    again(stage, command, folder, trial, tidy=True)
    return trial


def refused_wrongly(ended: Ended, allowed: Sequence[int]) -> Iterator[str]:
    """Name what is wrong with how a command refused."""
    told = [line for line in ended.err.splitlines() if line.startswith("pmq: ")]
    if "Traceback" in ended.err or ended.status not in allowed or (ended.status and len(told) != 1):
        yield f"exit status {ended.status}, {len(told)} lines: {ended.err[-400:]!r}"


def unheard(stage: Stage, command: Command, rng: Random) -> Trial:
    """Send what is printed to a full device or a closed pipe; then run the command again."""
    folder, closed = stage.folder(command), rng.random() < 0.5
    trial = Trial("stream", command.name, "a closed pipe" if closed else "/dev/full")
    if closed:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = run(command.line, folder, stdout=writer)
    finally:
        os.close(writer)
    trial.ended = f"exit status {ended.status}"
    trial.faults += refused_wrongly(ended, (128 + signal.SIGPIPE, 2) if closed else (2,))
    again(stage, command, folder, trial, tidy=True)
    return trial


def rivalled(stage: Stage, command: Command, rng: Random) -> Trial:
    """Run a command twice at the same time in the same folder: each does it or refuses, one does it, and the result is right."""
    folder, wait = stage.folder(command), rng.random() * 0.5 * stage.usual[command.name].seconds
    trial = Trial("rivals", command.name, f"the second {wait:.2f} s later")

    def second() -> Ended:
        time.sleep(wait)
        return run(command.line, folder)

    with ThreadPoolExecutor(2) as pool:
        both = [each.result() for each in (pool.submit(run, command.line, folder), pool.submit(second))]
    trial.ended = f"exit statuses {both[0].status} and {both[1].status}"
    for ended in both:
        trial.faults += refused_wrongly(ended, (0, 2))
    if all(ended.status for ended in both):
        trial.faults.append("neither did it")
    trial.faults += stage.references[command.name].differences(folder)
    again(stage, command, folder, trial, tidy=True)
    return trial


def again(stage: Stage, command: Command, folder: Path, trial: Trial, tidy: bool = False) -> None:
    """Look at what is left, run the command to its end, and compare with the undisturbed one."""
    for name, path in files(folder).items():
        if path.suffix == ".tmp":
            trial.faults += [f"{name} was left"] if tidy else []
        elif path.name != JOURNAL.name and name not in command.files and (fault := unreadable(path)):
            trial.faults.append(f"{name} is half written: {fault}")
    journal = folder / JOURNAL
    before = journal.read_bytes() if journal.is_file() else b""
    ended = run(command.line, folder)
    if ended.status != 0:
        trial.faults.append(f"the second time exit status {ended.status}: {ended.err[-400:]!r}")
    trial.faults += [f"after the second time {fault}" for fault in stage.references[command.name].differences(folder)]
    trial.lost, trial.doubled = lost_and_doubled(before, journal)
    if trial.lost or trial.doubled:
        trial.faults.append(f"{trial.lost} measurements lost, {trial.doubled} doubled")


HOW: dict[str, Callable[[Stage, Command, Random], Trial]] = {"kill": killed, "disk": full, "stream": unheard, "rivals": rivalled}


def plan(seed: int, kills: int, commands: Sequence[Command], ways: Sequence[str]) -> list[tuple[str, Command, Random]]:
    """What is done to which command, each with its own draws: ``kills`` by their shares, the others a few for each command."""
    shares = [command for command in commands for _ in range(command.share)]
    order = Random(seed).sample(shares, len(shares))
    found = [("kill", order[i % len(order)]) for i in range(kills if "kill" in ways else 0)]
    found += [(way, command) for way in ("disk", "disk", "stream", "rivals") if way in ways for command in commands]
    return [(way, command, Random(f"{seed}/{number}")) for number, (way, command) in enumerate(found)]


def table(stage: Stage, trials: list[Trial]) -> str:
    """Counts by command."""
    lines = [
        f"{'command':16}{'s':>6}{'kills':>7}{'disks':>7}{'streams':>9}{'rivals':>8}{'lost':>6}{'doubled':>9}{'failures':>10}"
    ]
    for name in [*stage.usual, "all"]:
        own = [t for t in trials if name in (t.command, "all")]
        seconds = f"{stage.usual[name].seconds:.1f}" if name != "all" else ""
        counts = [sum(t.way == way for t in own) for way in WAYS]
        lost, doubled, failed = sum(t.lost for t in own), sum(t.doubled for t in own), sum(bool(t.faults) for t in own)
        lines.append(f"{name:16}{seconds:>6}{counts[0]:7}{counts[1]:7}{counts[2]:9}{counts[3]:8}{lost:6}{doubled:9}{failed:10}")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and tell what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of trials to do again")
    parser.add_argument("--commands", nargs="*", default=[command.name for command in COMMANDS])
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=Path, help="folder of whole files, kept for the next time")
    args = parser.parse_args()
    commands = [command for command in COMMANDS if command.name in args.commands]
    todo = plan(args.seed, args.kills, commands, args.ways)
    chosen = range(len(todo)) if args.only is None else args.only
    start, trials = time.monotonic(), dict[int, Trial]()
    with tempfile.TemporaryDirectory(prefix="pmq-chaos-") as temporary, ThreadPoolExecutor(args.workers) as pool:
        seeds = (args.seeds or Path(temporary) / "seeds").absolute()
        if not seeds.is_dir() and any(command.files for command in commands):
            subprocess.run([sys.executable, "-m", "tests.campaigns.seeds", str(seeds)], check=True, cwd=ROOT)
        stage = Stage(Path(temporary), seeds)
        needed = [c for c in commands if not chosen or any(todo[i][1] is c for i in chosen)]
        failed, broken = 0, set[str]()
        for command, faults in zip(needed, pool.map(stage.undisturbed, needed), strict=True):
            failed += bool(faults)
            broken |= {command.name} if stage.usual[command.name].status else set()
            print(f"{command.name}: {stage.usual[command.name].seconds:.1f} s {'; '.join(faults)}", flush=True)
            unsure = sorted(name for name, how in stage.references[command.name].how.items() if how == "there")
            print(
                f"  not the same each time, so only looked for: {', '.join(unsure)}" if unsure else "", end="\n" if unsure else ""
            )

        def do(number: int) -> tuple[int, Trial]:
            way, command, rng = todo[number]
            return number, HOW[way](stage, command, rng)

        for number, trial in pool.map(do, [i for i in chosen if todo[i][1].name not in broken]):
            trials[number] = trial
            if trial.faults or args.only is not None:
                print(f"\ntrial {number}: {trial.command}, {trial.way}, {trial.what}: {trial.ended}")
                print("\n".join(f"  {fault[:600]}" for fault in trial.faults), flush=True)
            elif len(trials) % 20 == 0:
                print(f"{len(trials)} of {len(chosen)} trials, {time.monotonic() - start:.0f} s", flush=True)
        print(table(stage, list(trials.values())))
    failures = [number for number, trial in trials.items() if trial.faults]
    if failures:
        numbers = " ".join(map(str, failures))
        print(f"again: python -m tests.campaigns.chaos --seed {args.seed} --kills {args.kills} --only {numbers}")
    return 1 if failures or failed else 0


if __name__ == "__main__":
    sys.exit(main())
