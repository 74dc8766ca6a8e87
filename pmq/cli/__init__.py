"""The command line: one file a command; each parses, calls :mod:`pmq.api`, and prints."""

from __future__ import annotations

import os
import signal
import sys

import typer

from pmq.cli.deploy import deploy
from pmq.cli.evaluate import evaluate
from pmq.cli.export import export
from pmq.cli.finetune import finetune
from pmq.cli.patches import patches
from pmq.cli.plot import plot
from pmq.cli.profile import profile
from pmq.cli.prune import prune
from pmq.cli.rank import rank
from pmq.cli.report import report
from pmq.cli.run_file import run
from pmq.cli.search import search
from pmq.cli.sensitivity import sensitivity
from pmq.core import PmqError
from pmq.core.errors import Interrupted
from pmq.core.memory import keep_freed_memory

app = typer.Typer(
    name="pmq",
    help="Mixed-precision search for vision transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (search, sensitivity, rank, evaluate, patches, prune, finetune, export, plot, report, profile, deploy, run):
    app.command()(command)

#: commands that go on where they were interrupted
RESUMABLE = ("search", "rank", "finetune")


def _interrupt(*_: object) -> None:
    raise Interrupted


def main() -> None:
    """Run the command line; bad input is told in one line on standard error, with exit status 2."""
    keep_freed_memory()
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")  # our own line tells what failed and what to do
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except PmqError as error:
        print(f"pmq: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted:
        kept = "; what was measured is kept, go on with the same command and --resume"
        print(f"pmq: interrupted{kept if sys.argv[1:2] in ([name] for name in RESUMABLE) else ''}", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)
