"""Kills, full disks, closed pipes and rivals: what was measured stays, and the second run gives the undisturbed result.

``make chaos KILLS=200 [SEED=]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tests.campaigns.commands import COMMANDS, Command
from tests.campaigns.process import ROOT
from tests.campaigns.trials import HOW, Stage, Trial

WAYS = tuple(HOW)


def plan(seed: int, kills: int, commands: Sequence[Command], ways: Sequence[str]) -> list[tuple[str, Command, Random]]:
    """What is done to which command, each with its own draws: ``kills`` by their shares, the others a few for each command."""
    shares = [command for command in commands for _ in range(command.share)]
    order = Random(seed).sample(shares, len(shares))
    found = [("kill", order[i % len(order)]) for i in range(kills if "kill" in ways else 0)]
    found += [(way, command) for way in WAYS[1:] if way in ways for command in commands]
    return [(way, command, Random(f"{seed}/{number}")) for number, (way, command) in enumerate(found)]


def table(stage: Stage, trials: list[Trial]) -> str:
    """Counts by command."""
    lines = [f"{'command':16}{'s':>6}{'kills':>7}{'disks':>7}{'streams':>9}{'rivals':>8}{'skipped':>9}"]
    lines[0] += f"{'lost':>6}{'doubled':>9}{'failures':>10}"
    for name in [*stage.usual, "all"]:
        own = [t for t in trials if name in (t.command, "all")]
        counts = Counter("skipped" if t.ended.startswith("skipped") else t.way for t in own)
        row = f"{name:16}{stage.usual[name].seconds if name != 'all' else 0:6.1f}{counts['kill']:7}"
        row += f"{counts['disk'] + counts['mount']:7}{counts['stream']:9}{counts['rivals']:8}{counts['skipped']:9}"
        lines.append(f"{row}{sum(t.lost for t in own):6}{sum(t.doubled for t in own):9}{sum(bool(t.faults) for t in own):10}")
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
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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
        undisturbed = pool.map(stage.undisturbed, [command for command in needed for _ in range(2)])
        for command in needed:
            faults = stage.refer(command, next(undisturbed), next(undisturbed))
            failed += bool(faults)
            broken |= {command.name} if stage.usual[command.name].status else set()
            unsure = sorted(name for name, how in stage.references[command.name].how.items() if how == "there")
            told = [f"{stage.usual[command.name].seconds:.1f} s", *faults]
            told += [f"only looked for, as they differ each time: {', '.join(unsure)}"] if unsure else []
            print(f"{command.name}: {'; '.join(told)}", flush=True)

        def do(number: int) -> tuple[int, Trial]:
            way, command, rng = todo[number]
            trial = HOW[way](stage, command, rng)
            if trial.folder is not None:
                shutil.rmtree(trial.folder.parent, ignore_errors=True)
            return number, trial

        for number, trial in pool.map(do, [i for i in chosen if todo[i][1].name not in broken]):
            trials[number] = trial
            if trial.faults or trial.ended.startswith("skipped") or args.only is not None:
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
