"""Damaged files and texts: every one is read rightly or refused in one line. ``make fuzz CASES=10000 [SEED=]``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

from tests.campaigns.kinds import KINDS, OUT, Kind
from tests.campaigns.pool import Pool
from tests.campaigns.verdict import disturbed, judge, snapshot

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of a case: ``success``, ``refused`` or ``failure``, and why."""

    number: int
    kind: str
    word: str
    done: str
    line: str
    why: str = ""
    seconds: float = 0.0


def kind_of(seed: int, number: int, kinds: tuple[Kind, ...] = KINDS) -> Kind:
    """The kind of a case: within each hundred every kind has its share."""
    shares = [kind for kind in kinds for _ in range(kind.share)]
    block, index = divmod(number, len(shares))
    return Random(f"{seed}/{block}").sample(shares, len(shares))[index]


def prepare(seeds: Path, seed: int, number: int, folder: Path) -> tuple[Kind, str, list[str]]:
    """Damage files in a case's folder; give its kind, what was done, and the command line to run there."""
    rng, kind = Random(f"{seed}/{number}"), kind_of(seed, number)
    kind.lay_out(seeds, folder)
    done = kind.damage(rng, folder)
    return kind, done, [*rng.choice(kind.lines), *kind.last(rng)]


def run_case(seeds: Path, place: str, seed: int, number: int) -> Outcome:
    """Damage files in a folder of the case's own below ``place``, run a command there, and judge what it did."""
    with tempfile.TemporaryDirectory(dir=place) as own:
        folder = Path(own)
        kind, done, line = prepare(seeds, seed, number, folder)
        before, start = snapshot(folder), time.process_time()
        status, out, err = _call(line, folder)
        seconds = time.process_time() - start
        word, fault = judge(status, out, err, folder)
        faults = [*([fault] if fault else []), *disturbed(folder, before, (*OUT, *kind.writes))]
    return Outcome(number, kind.name, "failure" if faults else word, done, " ".join(line), "; ".join(faults), seconds)


def _call(line: list[str], folder: Path) -> tuple[int, str, str]:
    """Run the command line in this process, with all that it and its libraries print caught; give its exit status."""
    import traceback
    import warnings

    from pmq import cli

    os.chdir(folder)
    kept, standard = [os.dup(1), os.dup(2)], (sys.stdout, sys.stderr)
    status: int = 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.argv = ["pmq", *line]
        try:
            with warnings.catch_warnings():  # each case sees a warning anew, as a process of its own would
                cli.main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1 if exit_.code else 0
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = standard
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            for number in kept:
                os.close(number)
            os.chdir("/")
        found = []
        for file in (out, err):
            file.seek(0)
            found.append(file.read().decode("utf-8", "replace"))
    return status, found[0], found[1]


def _lost(seeds: Path, place: str, seed: int, number: int, word: str, left: str) -> Outcome:
    """What is known of a case whose worker is gone."""
    with tempfile.TemporaryDirectory(dir=place) as own:
        kind, done, line = prepare(seeds, seed, number, Path(own))
    return Outcome(number, kind.name, "failure", done, " ".join(line), f"{word}\n{left}")


def campaign(seeds: Path, seed: int, numbers: Iterable[int], workers: int = 2, seconds: float = 20.0) -> Iterator[Outcome]:
    """Run cases in workers."""
    with tempfile.TemporaryDirectory(prefix="pmq-fuzz-") as place:  # of all cases, for killed workers do not tidy up
        run, lost = partial(run_case, seeds, place, seed), partial(_lost, seeds, place, seed)
        yield from Pool(run, lost, workers, seconds, preload="tests.campaigns.preload").outcomes(numbers)


def table(outcomes: list[Outcome]) -> str:
    """Counts by kind."""
    counts = Counter((outcome.kind, word) for outcome in outcomes for word in (outcome.word, "cases"))
    lines = [f"{'kind':14}{'cases':>8}{'success':>9}{'refused':>9}{'failures':>10}{'CPU s':>8}"]
    names = [name for name in dict.fromkeys(kind.name for kind in KINDS) if counts[name, "cases"]]
    for name in [*names, "all"]:
        own = [o for o in outcomes if name in (o.kind, "all")]
        words = Counter(o.word for o in own)
        mean = sum(o.seconds for o in own) / max(len(own), 1)
        lines.append(f"{name:14}{len(own):8}{words['success']:9}{words['refused']:9}{words['failure']:10}{mean:8.3f}")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign and tell what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases to run, with what they did")
    parser.add_argument("--kind", help="run cases of this kind only")
    parser.add_argument("--show", choices=["success", "refused", "failure"], help="print cases that end so")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=Path, help="folder of whole files, kept for the next time")
    parser.add_argument("--run", type=Path, help="a finished run of the embedded model, which spares a search")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="pmq-seeds-") as temporary:
        seeds = (args.seeds or Path(temporary) / "seeds").absolute()
        if not seeds.is_dir():
            run = [str(args.run.absolute())] if args.run else []
            subprocess.run([sys.executable, "-m", "tests.campaigns.seeds", str(seeds), *run], check=True, cwd=ROOT)
        numbers: Iterable[int] = args.only if args.only else range(args.cases)
        if args.kind and not args.only:
            found = (n for n in count() if kind_of(args.seed, n).name == args.kind)
            numbers = [next(found) for _ in range(args.cases)]
        start, outcomes = time.monotonic(), []
        for outcome in campaign(seeds, args.seed, numbers, args.workers):
            outcomes.append(outcome)
            if args.only or outcome.word == args.show:
                print(outcome)
            elif outcome.word == "failure":  # told at once, for who cannot wait for the end
                print(f"failure: case {outcome.number} ({outcome.kind}): {outcome.done}", flush=True)
            if len(outcomes) % 500 == 0:
                failed = sum(o.word == "failure" for o in outcomes)
                print(f"{len(outcomes)} cases, {failed} failures, {time.monotonic() - start:.0f} s", flush=True)
    print(table(outcomes))
    failures = sorted((o for o in outcomes if o.word == "failure"), key=lambda o: o.number)
    for o in failures[:10]:
        print(f"\ncase {o.number} ({o.kind}): {o.done}\n  pmq {o.line[:300]}\n  {o.why[:1500]}")
        print(f"  again: python -m tests.campaigns.fuzz --seed {args.seed} --only {o.number}")
    if len(failures) > 10:
        print(f"\nand {len(failures) - 10} more: {' '.join(str(o.number) for o in failures[10:200])}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
