"""Units of work that do not depend on each other, and where they are executed: in this process, or on a Ray cluster.

A unit names what is to be done, such as an allocation and a part of the images. What it is done with, the model, the images and
the fitted quantizers, is the *state*, which every worker receives once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unit:
    """A call ``function(state, *arguments)``.

    Attributes:
        key: identifies the unit among those that are executed together.
        name: what messages call it, such as the allocation and the part of the images.
        function: a function of a module, whose result depends on nothing but the state and the arguments.
        arguments: its further arguments.
    """

    key: Hashable
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Failed:
    """Result of a unit that failed on several workers, and the reason of the last failure."""

    reason: str


class Executor(ABC):
    """Executes units of work on a state.

    Attributes:
        n_workers: number of workers; 0 where this process does the work itself.
    """

    n_workers: int = 0

    @abstractmethod
    def hold(self, state: Any) -> None:
        """Give the state to every worker."""

    @abstractmethod
    def share(self, function: Callable[[Any, Any], None], value: Any) -> None:
        """Call ``function(state, value)`` on every worker, also on those that start later."""

    @abstractmethod
    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Execute units, and yield each with its result, or with :class:`Failed`, as soon as it is known.

        Units are taken one by one as workers become free, so that ``units`` may depend on the results so far.
        """

    def close(self) -> None:  # noqa: B027 - this process has nothing to release
        """Release the workers."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalExecutor(Executor):
    """Executes one unit after the other in this process; errors propagate."""

    def __init__(self, state: Any = None) -> None:
        self._state = state

    def hold(self, state: Any) -> None:
        """Use this state from now on."""
        self._state = state

    def share(self, function: Callable[[Any, Any], None], value: Any) -> None:
        """Call the function on the state."""
        function(self._state, value)

    def run(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Execute each unit when it is asked for."""
        for unit in units:
            yield unit, unit.function(self._state, *unit.arguments)
