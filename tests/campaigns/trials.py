"""What is done to a command, and what must be so afterwards: each function disturbs one and gives a :class:`Trial`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.campaigns.commands import JOURNAL, Command
from tests.campaigns.disks import NoMount, own_disk, refit, used
from tests.campaigns.process import Ended, run
from tests.campaigns.sameness import Reference, files, lost_and_doubled
from tests.campaigns.verdict import unreadable

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


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
    folder: Path | None = None


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

    def folder(self, command: Command | None) -> Path:
        """Make a new folder, with what the command reads."""
        with self._lock:
            self._made += 1
            folder = self.place / f"{self._made:04d}" / "work"
        folder.mkdir(parents=True)
        if command is not None:
            command.lay_out(self.seeds, folder)
        return folder

    def undisturbed(self, command: Command) -> tuple[Path, Ended]:
        """Run a command by itself; give its folder, and how it ended."""
        folder = self.folder(command)
        return folder, run(command.line, folder)

    def refer(self, command: Command, one: tuple[Path, Ended], other: tuple[Path, Ended]) -> list[str]:
        """Keep what two undisturbed runs left; give what is wrong with that."""
        faults = [f"exit status {e.status}: {e.err[-300:]!r}" for _, e in (one, other) if e.status != 0]
        reference = Reference(one[0], other[0], command.exact)
        self.references[command.name], self.usual[command.name] = reference, min(one[1], other[1], key=lambda e: e.seconds)
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


def mounted(stage: Stage, command: Command, rng: Random) -> Trial:
    """Run a command where the disk is nearly full, or where nothing may be written; then where all is well again."""
    folder, room = stage.folder(None), rng.choice([0, 8, 64, 512])
    options = rng.choice(["ro", f"{room}"])
    trial = Trial("mount", command.name, "a read-only disk" if options == "ro" else f"a disk with {room} kB left")
    try:
        with own_disk(folder):
            command.lay_out(stage.seeds, folder)
            refit(folder, "ro" if options == "ro" else f"size={used(folder) // 1024 + room + 16}k")
            ended = run(command.line, folder)
            refit(folder, "rw,size=1g")
            trial.ended = f"exit status {ended.status}"
            trial.faults += refused_wrongly(ended, (0, 2))
            again(stage, command, folder, trial, tidy=True)
    except NoMount as error:
        trial.ended = f"skipped: {error}"
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
    trial.folder = folder
    journal = folder / JOURNAL
    before = journal.read_bytes() if journal.is_file() else b""
    ended = run(command.line, folder)
    if ended.status != 0:
        trial.faults.append(f"the second time exit status {ended.status}: {ended.err[-400:]!r}")
    trial.faults += [f"after the second time {fault}" for fault in stage.references[command.name].differences(folder)]
    trial.lost, trial.doubled = lost_and_doubled(before, journal)
    if trial.lost or trial.doubled:
        trial.faults.append(f"{trial.lost} measurements lost, {trial.doubled} doubled")


HOW: dict[str, Callable[[Stage, Command, Random], Trial]] = {
    "kill": killed,
    "disk": full,
    "mount": mounted,
    "stream": unheard,
    "rivals": rivalled,
}
