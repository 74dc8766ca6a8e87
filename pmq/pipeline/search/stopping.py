"""Stopping criteria of a search."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

#: most rounds of a search
ROUNDS = 2


@dataclass
class StoppingCriteria:
    """Limits of time, simulations and rounds, and whether one is reached.

    Args:
        seconds: time after which no round begins and no further candidate is simulated.
        evaluations: most candidates to simulate in rounds.
        rounds: most rounds.
        interrupted: whether the user asked to stop.
        started: monotonic time of the start, in seconds.
    """

    seconds: float | None = None
    evaluations: int | None = None
    rounds: int = ROUNDS
    interrupted: bool = False
    started: float = field(default_factory=time.monotonic)

    def over(self, simulated: int = 0) -> bool:
        """Return whether to stop after ``simulated`` candidates."""
        late = self.seconds is not None and time.monotonic() - self.started > self.seconds
        return self.interrupted or late or (self.evaluations is not None and simulated >= self.evaluations)
