"""Read a finished run from its directory: no model, no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pmq.core import Allocation, Inventory
from pmq.core.rundir import CHOSEN, PRUNED, read_manifest


@dataclass(frozen=True)
class RunData:
    """A run directory's contents, read when first wanted."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was asked and how it went; refuses a run that did not finish."""
        return read_manifest(self.path)

    @cached_property
    def inventory(self) -> Inventory:
        """The model's components."""
        return Inventory.from_dict(json.loads((self.path / "inventory.json").read_text()))

    @cached_property
    def allocation(self) -> Allocation:
        """The chosen allocation."""
        return Allocation.load(self.path / CHOSEN)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """Component x choice errors."""
        return pd.read_csv(self.path / "sensitivity.csv")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """What each round cost and gained."""
        return pd.read_csv(self.path / "rounds.csv")

    @cached_property
    def points(self) -> pd.DataFrame:
        """Every point: those of the front and the simulated ones with all columns, the others with costs alone."""
        front = pd.read_csv(self.path / "front.csv", dtype={"genome": str})
        others = pd.read_csv(self.path / "points.csv", dtype={"genome": str})
        return pd.concat([front, others], ignore_index=True) if len(others) else front

    @property
    def pruned(self) -> bool:
        """Whether it is a pruned model, which nothing was searched for."""
        return PRUNED in self.manifest

    @property
    def heading(self) -> str:
        """The model, and the budget where there was one."""
        return f"{self.allocation.model.name}, pruned" if self.pruned else self.title

    @property
    def title(self) -> str:
        """Model and budget."""
        settings = self.manifest["settings"]
        return f"{settings['model']['name']}, budget {settings['budget']}"
