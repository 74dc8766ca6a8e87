"""The one exception that means: the input is wrong, and here is what to do."""

from __future__ import annotations


class Interrupted(BaseException):
    """Ctrl-C, told apart from the KeyboardInterrupt that typer would turn into a bare "Aborted"."""


class PmqError(ValueError):
    """Bad input, told in one line: the value met, what is allowed, what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """Reduce a foreign exception to one line that fits into a message of ours."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
