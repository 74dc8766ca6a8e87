"""The table that every metric fills, component x choice -> error; independent of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmq.core.choice import Choice, WidthChoice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.task import Task


@dataclass
class Effects:
    """How each choice of each component changes the model's output, image by image.

    Attributes:
        reference: FP32 logits ``(N, M)``; of a feature extractor, each image's features divided by their norm.
        start: the same of the allocation around which sensitivity was measured.
        task: what the outputs mean.
        changes: component -> choice -> what the choice adds to ``start`` ``(N, M)``.
    """

    reference: NDArray[np.float32]
    start: NDArray[np.float32]
    task: Task
    changes: dict[str, dict[Choice, NDArray[np.float32]]] = field(default_factory=dict)


@dataclass
class SensitivityTable:
    """Error at the model's output that each choice of each component causes on its own.

    Attributes:
        metric: name of the metric that filled the table.
        errors: component -> choice -> error; FP32 is 0.
        seconds: time that filling the table took.
        effects: how the choices change the output, if the metric records that.
    """

    metric: str
    errors: dict[str, dict[Choice | WidthChoice, float]] = field(default_factory=dict)
    seconds: float = 0.0
    effects: Effects | None = None

    @classmethod
    def zeros(cls, choices: Mapping[str, Sequence[Choice]]) -> SensitivityTable:
        """Return a table in which every error is zero, for computing costs alone."""
        return cls("zeros", {name: dict.fromkeys(row, 0.0) for name, row in choices.items()})

    def put(self, name: str, choice: Choice | WidthChoice, error: float) -> None:
        """Enter an error."""
        self.errors.setdefault(name, {})[choice] = error

    def get(self, name: str, choice: Choice | WidthChoice) -> float:
        """Return an error.

        Raises:
            PmqError: the error was not measured.
        """
        if choice.is_fp32:
            return 0.0
        try:
            return self.errors[name][choice]
        except KeyError:
            raise PmqError(
                f"metric {self.metric!r} has no sensitivity of {name!r} at {choice.label} bits; measure it first"
            ) from None

    def __iter__(self) -> Iterator[tuple[str, Choice | WidthChoice, float]]:
        for name, row in self.errors.items():
            for choice, error in row.items():
                yield name, choice, error

    def widths(self) -> pd.DataFrame:
        """Return the errors of width choices, one row each."""
        entries = [(name, choice, error) for name, choice, error in self if isinstance(choice, WidthChoice)]
        rows = [
            {"unit": n, "kept": c.label, "share": c.unit.share, "heads": c.unit.kept_heads, "error": error}
            for n, c, error in entries
        ]
        return pd.DataFrame(rows, columns=["unit", "kept", "share", "heads", "error"])

    def frame(self, inventory: Inventory) -> pd.DataFrame:
        """Return the table with one row per component and choice; :meth:`widths` returns the width choices."""
        rows = []
        for name, choice, error in self:
            if isinstance(choice, WidthChoice):
                continue
            component = inventory[name]
            row = {"component": name, "kind": component.kind, "role": component.role, "bits": choice.bits}
            row |= {"quantizer": choice.quantizer, "granularity": choice.granularity, "group_size": choice.group_size}
            rows.append(row | {"error": error, "metric": self.metric})
        return pd.DataFrame(rows)
