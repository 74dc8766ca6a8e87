"""Read a finished run from its directory: no model, no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pmq.core import Allocation, Inventory, PmqError
from pmq.core.errors import one_line
from pmq.core.rundir import CHOSEN, PRUNED, SPENT, read_manifest


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
        return self._table("sensitivity.csv")

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """What each round cost and gained."""
        return self._table("rounds.csv")

    @cached_property
    def spent(self) -> pd.DataFrame | None:
        """Where the chosen allocation's costs go, by block and part of it, if the run says."""
        if not (self.path / SPENT).is_file():
            return None
        table = self._table(str(SPENT))
        places = [place(module) for module in table["module"]]
        inside = [block[-1:].isdigit() for block, _ in places]
        table["block"] = [block if ok else part for (block, part), ok in zip(places, inside, strict=True)]
        table["part"] = [part or "products" if ok else "outside the blocks" for (_, part), ok in zip(places, inside, strict=True)]
        return table

    @cached_property
    def points(self) -> pd.DataFrame:
        """Every point: those of the front and the simulated ones with all columns, the others with costs alone."""
        front, others = self._table("front.csv"), self._table("points.csv")
        return pd.concat([front, others], ignore_index=True) if len(others) else front

    def _table(self, name: str) -> pd.DataFrame:
        try:
            return pd.read_csv(self.path / name, dtype={"genome": str})
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        except (OSError, ValueError) as error:
            said = f"{name} of the run in {str(self.path)!r} cannot be read ({one_line(error)})"
            raise PmqError(f"{said}; search anew with another --out") from None

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


def place(name: str) -> tuple[str, str]:
    """Divide ``blocks.0.attn.qkv.weight`` into ``blocks.0`` and ``qkv.weight``."""
    parts = name.split(".")
    last_number = max((i for i, p in enumerate(parts) if p.isdigit()), default=-1)
    block = ".".join(parts[: last_number + 1]) or "outside the blocks"
    return block, ".".join(p for p in parts[last_number + 1 :] if p not in ("attn", "mlp"))
