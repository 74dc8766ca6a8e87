"""What a search may spend on rounds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

#: rounds of a search at most
ROUNDS = 4


@dataclass
class StoppingCriteria:
    """What a search may spend, and whether it is spent.

    Args:
        seconds: no round begins, and no further candidate is simulated, after that long.
        evaluations: allocations to simulate in rounds.
        rounds: rounds.
    """

    seconds: float | None = None
    evaluations: int | None = None
    rounds: int = ROUNDS
    interrupted: bool = False
    started: float = field(default_factory=time.monotonic)

    def over(self, simulated: int = 0) -> bool:
        """Whether to stop."""
        late = self.seconds is not None and time.monotonic() - self.started > self.seconds
        return self.interrupted or late or (self.evaluations is not None and simulated >= self.evaluations)
