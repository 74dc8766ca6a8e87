"""The exceptions of pmq: wrong input, and requests to stop."""

from __future__ import annotations


class Stopped(BaseException):
    """A signal such as SIGTERM asked the command to stop at once; stored results stay."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(Stopped):
    """Ctrl-C; a search finishes with the best allocation so far."""


class PmqError(ValueError):
    """Wrong input, described in one line: the value, what is allowed, and what to do.

    Options of the Python functions stand in backticks, alone; the command line prints them as flags.

    The command line prints the message without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """Reduce a foreign exception to one line that fits into a message of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
