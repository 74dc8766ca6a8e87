"""The command line: one module per command, which parses arguments, calls :mod:`pmq.api` and prints the result."""

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
from pmq.cli.demo import demo
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
from pmq.cli.run import run
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
for command in (*_SEARCHING, ls, compare, export, plot, report, profile, deploy, run, demo):
    app.command(cls=Command)(command)

#: environment variable that a shell sets to request completions
COMPLETION = "_PMQ_COMPLETE"
#: allocations between garbage collections: importing torch allocates hundreds of thousands of objects, none of them garbage
GARBAGE = 10_000
#: exit statuses: bad input, and the base to which the number of the stopping signal is added, as in shells
BAD, SIGNALLED = 2, 128
#: how OpenMP's threads wait for each other: those that spin take the processor from the thread that they wait for, if another
#: process has it, and everything takes four times as long. It is read once, when torch is imported.
WAITING = ("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    """Run the command line; bad input ends with a one-line message on standard error and exit status 2."""
    if COMPLETION in os.environ:
        typer.main.get_command(app).main(prog_name="pmq")
        return
    keep_freed_memory()
    os.environ.setdefault(*WAITING)
    gc.set_threshold(GARBAGE)
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")  # the message of pmq states what failed and what to do
    open_output()
    with spelled(as_flags):
        status = _status(sys.argv[1:])
    unwritten = close_output()
    if unwritten is not None:
        message(f"pmq: cannot write to standard output: {unwritten.strerror}")
        status = status or (SIGNALLED + signal.SIGPIPE if isinstance(unwritten, BrokenPipeError) else BAD)
    gc.freeze()  # otherwise the interpreter searches all of torch's objects for garbage at exit, which takes a second
    sys.exit(status)


def _status(arguments: list[str]) -> int:
    """Run a command and return its exit status; exceptions that indicate a bug in pmq propagate."""
    try:
        with signals.raise_on_stop():
            _invoke([*arguments] or ["--help"])
    except typer.Exit as exit_:
        return exit_.exit_code if arguments else BAD
    except SystemExit:  # raised by rich, which draws the help, when its output is a pipe without a reader
        give_up_output(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        return 0
    except PmqError as error:
        text, status = str(error), BAD
    except Stopped as stopped:
        signals.ignore_interrupts()
        text, status = signals.stop_message(stopped), SIGNALLED + stopped.number
    except OSError as error:
        if close_output() is not None:  # a library failed to print to standard output
            return 0
        text, status = _system_error(error), BAD
    else:
        return 0
    message(f"pmq: {text}")
    return status


def _invoke(arguments: list[str]) -> None:
    """Parse the arguments and call the command.

    Typer's ``main`` is not used because it hides some exceptions and prints others in boxes.
    """
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("pmq", arguments) as context:
            command.invoke(context)
    except Exception as error:
        if not hasattr(error, "format_message"):  # all errors about arguments have it, whatever their class
            raise
        failing_context = getattr(error, "ctx", None)
        hint = "" if failing_context is None else f"; see {failing_context.command_path} --help"
        raise PmqError(error.format_message().rstrip(".") + hint) from None


def _system_error(error: OSError) -> str:
    """Describe in one line an error of the operating system and the files that it concerns."""
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes | os.PathLike)]
    files = f" for {' and '.join(map(repr, names))}" if names else ""
    return f"the operating system reports an error{files}: {error.strerror or one_line(error)}"
