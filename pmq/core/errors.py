"""The one exception that means: the input is wrong, and here is what to do."""

from __future__ import annotations


class Stopped(BaseException):
    """A signal asked the command to stop soon, as SIGTERM does: nothing is finished first, what is kept stays."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupted(Stopped):
    """Ctrl-C, which a search may answer by finishing with the best so far."""


class PmqError(ValueError):
    """Bad input, told in one line: the value met, what is allowed, what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """Reduce a foreign exception to one line that fits into a message of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
