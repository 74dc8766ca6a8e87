"""The table every metric fills: component x choice -> error. No torch here."""

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
    """How each choice of each component changes the model's output, image by image, not just by how much.

    Attributes:
        reference: logits of FP32 ``(N, M)``; or features, each image's over their norm.
        start: the same of the allocation around which was measured.
        task: what they mean.
        changes: component -> choice -> what is added to ``start`` ``(N, M)``.
    """

    reference: NDArray[np.float32]
    start: NDArray[np.float32]
    task: Task
    changes: dict[str, dict[Choice, NDArray[np.float32]]] = field(default_factory=dict)


@dataclass
class SensitivityTable:
    """Error at the model's output that each choice of each component causes by itself.

    Attributes:
        metric: name of the metric that filled it.
        errors: component -> choice -> error; FP32 is 0.
        seconds: what filling it took.
        effects: how they change the output, where the metric keeps that.
    """

    metric: str
    errors: dict[str, dict[Choice | WidthChoice, float]] = field(default_factory=dict)
    seconds: float = 0.0
    effects: Effects | None = None

    @classmethod
    def zeros(cls, choices: Mapping[str, Sequence[Choice]]) -> SensitivityTable:
        """Make a table in which nothing makes an error, for questions of cost alone."""
        return cls("zeros", {name: dict.fromkeys(row, 0.0) for name, row in choices.items()})

    def put(self, name: str, choice: Choice | WidthChoice, error: float) -> None:
        """Enter an error."""
        self.errors.setdefault(name, {})[choice] = error

    def get(self, name: str, choice: Choice | WidthChoice) -> float:
        """Read an error.

        Raises:
            PmqError: it was not measured.
        """
        if choice.is_fp32:
            return 0.0
        try:
            return self.errors[name][choice]
        except KeyError:
            raise PmqError(f"{self.metric} has no sensitivity of {name!r} at {choice.label} bits") from None

    def __iter__(self) -> Iterator[tuple[str, Choice | WidthChoice, float]]:
        for name, row in self.errors.items():
            for choice, error in row.items():
                yield name, choice, error

    def widths(self) -> pd.DataFrame:
        """Errors of keeping part of units, a row for each."""
        kept = [(name, choice, error) for name, choice, error in self if isinstance(choice, WidthChoice)]
        rows = [
            {"unit": n, "kept": c.label, "share": c.unit.share, "heads": c.unit.kept_heads, "error": error}
            for n, c, error in kept
        ]
        return pd.DataFrame(rows, columns=["unit", "kept", "share", "heads", "error"])

    def frame(self, inventory: Inventory) -> pd.DataFrame:
        """Lay the table out, a row for each component and choice; widths have :meth:`widths`."""
        rows = []
        for name, choice, error in self:
            if isinstance(choice, WidthChoice):
                continue
            component = inventory[name]
            row = {"component": name, "kind": component.kind, "role": component.role, "bits": choice.bits}
            row |= {"quantizer": choice.quantizer, "granularity": choice.granularity, "group_size": choice.group_size}
            rows.append(row | {"error": error, "metric": self.metric})
        return pd.DataFrame(rows)
