"""The command line: one file a command; each parses, calls :mod:`pmq.api`, and prints."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from typing import Any

import typer

from pmq.cli import signals
from pmq.cli.arguments import Command
from pmq.cli.compare import compare
from pmq.cli.deploy import deploy
from pmq.cli.evaluate import evaluate
from pmq.cli.export import export
from pmq.cli.finetune import finetune
from pmq.cli.hints import as_flags
from pmq.cli.ls import ls
from pmq.cli.output import close_output, give_up_output, open_output
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
from pmq.core.errors import Stopped, one_line
from pmq.core.memory import keep_freed_memory
from pmq.core.progress import message, spelled

app = typer.Typer(
    name="pmq",
    help="Mixed-precision search for vision transformers.",
    pretty_exceptions_enable=False,
)
_SEARCHING = (search, sensitivity, rank, evaluate, patches, prune, finetune)
for command in (*_SEARCHING, ls, compare, export, plot, report, profile, deploy, run):
    app.command(cls=Command)(command)

#: set by shells that complete a line
COMPLETION = "_PMQ_COMPLETE"
#: objects made between looks for garbage: loading torch makes hundreds of thousands, none of which is any
GARBAGE = 10_000
#: exit statuses: bad input, and 128 with the number of the signal that stopped a command, as shells have it
BAD, SIGNALLED = 2, 128


def main() -> None:
    """Run the command line; bad input is told in one line on standard error, with exit status 2."""
    if COMPLETION in os.environ:
        typer.main.get_command(app).main(prog_name="pmq")  # which prints what a shell asks for
        return
    keep_freed_memory()
    gc.set_threshold(GARBAGE)
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")  # our own line tells what failed and what to do
    open_output()
    with spelled(as_flags):
        status = _status(sys.argv[1:])
    unwritten = close_output()
    if unwritten is not None:
        message(f"pmq: cannot write to standard output: {unwritten.strerror}")
        status = status or (SIGNALLED + signal.SIGPIPE if isinstance(unwritten, BrokenPipeError) else BAD)
    gc.freeze()  # else the interpreter looks through all of torch for garbage before it goes, which takes a second
    sys.exit(status)


def _status(arguments: list[str]) -> int:
    """Run a command and give its exit status. Exceptions that tell of an error of ours are not caught."""
    try:
        with signals.answered():
            _invoke([*arguments] or ["--help"])
    except typer.Exit as left:
        return left.exit_code if arguments else BAD
    except SystemExit:  # how rich, which draws the help, leaves a pipe that nobody reads
        give_up_output(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        return 0
    except PmqError as error:
        told, status = str(error), BAD
    except Stopped as stopped:
        told, status = signals.told(stopped), SIGNALLED + stopped.number
    except OSError as error:
        if close_output() is not None:  # what a library printed could not be written
            return 0
        told, status = _refusal(error), BAD
    else:
        return 0
    message(f"pmq: {told}")
    return status


def _invoke(arguments: list[str]) -> None:
    """Parse and call; not by typer's own main function, which keeps silent of some exceptions, and prints others in boxes."""
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("pmq", arguments) as context:
            command.invoke(context)
    except Exception as error:
        if not hasattr(error, "format_message"):  # all that is wrong with arguments has it, whatever class it is of
            raise
        of = getattr(error, "ctx", None)
        hint = "" if of is None else f"; see {of.command_path} --help"
        raise PmqError(error.format_message().rstrip(".") + hint) from None


def _refusal(error: OSError) -> str:
    """What the system refused, and why."""
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes | os.PathLike)]
    of = f" {' and '.join(map(repr, names))}" if names else ""
    return f"the system refuses{of}: {error.strerror or one_line(error)}"
