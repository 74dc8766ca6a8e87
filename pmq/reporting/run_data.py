"""Read a finished run from its directory: no model, no torch. What is read is checked, each file alone and against the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmq.core import Allocation, Inventory, PmqError
from pmq.core import run_files as files
from pmq.core.description import described
from pmq.core.files import quoted, read_json
from pmq.core.manifest import Asked, Manifest, read_manifest
from pmq.core.validation import shown
from pmq.reporting import tables
from pmq.reporting.decisions import Decisions, read_decisions
from pmq.reporting.tables import Column, read_table

_ANEW = "put the files back, or search anew with another --out"


@dataclass(frozen=True)
class RunData:
    """A run directory's contents, read when first wanted."""

    path: Path

    @cached_property
    def manifest(self) -> Manifest:
        """What was asked and how it went; refuses a run that did not finish."""
        return read_manifest(self.path)

    @cached_property
    def asked(self) -> Asked:
        """The settings of the search."""
        return self.manifest.asked(self.path)

    @cached_property
    def inventory(self) -> Inventory:
        """The model's components."""
        path = self.file(files.INVENTORY)
        return Inventory.from_dict(read_json(path, "inventory"), f"inventory {quoted(path)}")

    @cached_property
    def allocation(self) -> Allocation:
        """The chosen allocation."""
        found = Allocation.load(self.file(files.CHOSEN))
        if self.pruned:
            return found
        told = found.inventory if found.pruning is None else None  # what is pruned is narrower
        if set(found.components) != set(self.inventory.names) or (told is not None and told != described(self.inventory)):
            raise self._damaged("the chosen allocation and inventory.json are of different components")
        return found

    @cached_property
    def decisions(self) -> Decisions | None:
        """What each digit of a genome stands for, if the run says."""
        path = files.unchanged(self.path, self.manifest.files, files.DECISIONS)
        return None if path is None else read_decisions(path, self.inventory)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """Component x choice errors."""
        table = self._table(files.SENSITIVITY, tables.SENSITIVITY)
        known = {(component.name, component.role, component.kind) for component in self.inventory}
        for name, role, kind in set(zip(table["component"], table["role"], table["kind"], strict=True)) - known:
            raise self._damaged(f"sensitivity.csv has {role} {shown(name)} of kind {shown(kind)}, which inventory.json has not")
        if table["metric"].nunique() != 1:
            raise self._damaged("sensitivity.csv is of several metrics")
        table["group_size"] = table.get("group_size", np.nan)
        table["granularity"] = table.get("granularity", "")
        if table.duplicated(["component", "bits", "quantizer", "group_size"]).any():
            raise self._damaged("sensitivity.csv has a choice of a component twice")
        return table

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """What each round cost and gained."""
        table = self._table(files.ROUNDS, tables.ROUNDS)
        if not table["simulated"].is_monotonic_increasing:
            raise self._damaged("rounds.csv has fewer simulated after a round than before it")
        return table

    @cached_property
    def cost_breakdown(self) -> pd.DataFrame | None:
        """Where the chosen allocation's costs go, by block and part of it, if the run says."""
        if files.unchanged(self.path, self.manifest.files, files.SPENT) is None:
            return None
        table = self._table(files.SPENT, tables.SPENT)
        with np.errstate(over="ignore"):  # what is too large differs, which is told
            self._check_costs("spent.csv", table.select_dtypes("number").sum())
        modules = set(table["module"])
        if len(modules) < len(table) or len(modules - {component.module for component in self.inventory}) > 1:
            raise self._damaged("spent.csv has modules that inventory.json has not, or one twice")  # one row is of all else
        places = [place(module) for module in table["module"]]
        inside = [block[-1:].isdigit() for block, _ in places]
        table["block"] = [block if ok else part for (block, part), ok in zip(places, inside, strict=True)]
        table["part"] = [part or "products" if ok else "outside the blocks" for (_, part), ok in zip(places, inside, strict=True)]
        return table

    @cached_property
    def points(self) -> pd.DataFrame:
        """Every point: those of the front and the simulated ones with all columns, the others with costs alone."""
        front = self._table(files.FRONT, tables.FRONT)
        others = self._table(files.POINTS, tables.POINTS, least=0)
        if ("latency_ms" in front) != ("latency_ms" in others):
            raise self._damaged("front.csv and points.csv know different costs")
        found = pd.concat([front, others], ignore_index=True) if len(others) else front
        found["chosen"] = [value is True for value in found["chosen"]] if "chosen" in found else False
        if "chosen" in front and found["chosen"].sum() != 1:
            raise self._damaged(f"front.csv and points.csv have {found['chosen'].sum()} points that were chosen, not one")
        if found.duplicated(["source", "genome"]).any():
            raise self._damaged("front.csv or points.csv has a point twice")
        if "chosen" in front and self.allocation.patches is None and not self.asked.widths:
            self._check_costs("front.csv", found[found["chosen"]].iloc[0], ("size_bytes", "bit_ops"))
        if not found["front"].any() or not (found["kl"].notna() | found["feature_error"].notna()).any():
            raise self._damaged("front.csv has no front, or nothing that was simulated")
        searched = found["predicted_error"].notna()
        if found.loc[searched, "genome"].isna().any():
            raise self._damaged("front.csv has a point of the search without a genome")
        self.digits(found.loc[searched, "genome"])
        return found

    def digits(self, genomes: Sequence[str]) -> NDArray[np.int64]:
        """Genomes ``(B, D)`` as numbers.

        Raises:
            PmqError: they do not fit one another, or the run's decisions.
        """
        length = len(genomes.iloc[0]) if isinstance(genomes, pd.Series) and len(genomes) else 0
        if {len(text) for text in genomes} - {length}:
            raise self._damaged("front.csv and points.csv have genomes of several lengths")
        codes = np.frombuffer("".join(genomes).encode("ascii"), np.uint8).reshape(len(genomes), length).astype(np.int64)
        found = np.where(codes >= ord("a"), codes - ord("a") + 10, codes - ord("0"))
        if self.decisions is not None and len(found):
            counts = [len(decision.choices[0]) for decision in self.decisions]
            if len(counts) != length or (found >= counts).any():
                raise self._damaged("front.csv and points.csv have genomes that decisions.json does not know")
        return found

    def file(self, name: Path) -> Path:
        """The path of one of its files, as the run left it."""
        path = files.unchanged(self.path, self.manifest.files, name)
        if path is None:
            raise PmqError(f"{name.as_posix()} of the run in {quoted(self.path)} does not exist; {_ANEW}")
        return path

    def _check_costs(self, name: str, costs: pd.Series, keys: Sequence[str] = ("size_bytes", "bit_ops", "latency_ms")) -> None:
        """Raise unless the costs that a table tells of the chosen allocation are those that it achieves."""
        achieved = {} if self.allocation.budget is None else self.allocation.budget.achieved
        for key in keys:
            if key in costs and key in achieved and not math.isclose(costs[key], achieved[key], rel_tol=1e-6, abs_tol=1e-6):
                told = f"{key} {costs[key]:.9g}, which of the chosen allocation is {achieved[key]:.9g}"
                raise self._damaged(f"{name} has {told}")

    def _table(self, name: Path, columns: Mapping[str, Column], least: int = 1) -> pd.DataFrame:
        return read_table(self.file(name), "table", columns, least)

    def _damaged(self, fault: str) -> PmqError:
        return PmqError(f"the run in {quoted(self.path)} is damaged: {fault}; {_ANEW}")

    @property
    def pruned(self) -> bool:
        """Whether it is a pruned model, which nothing was searched for."""
        return self.manifest.pruned is not None

    @property
    def heading(self) -> str:
        """The model, and the budget where there was one."""
        return f"{self.allocation.model.name}, pruned" if self.pruned else self.title

    @property
    def title(self) -> str:
        """Model and budget."""
        return f"{self.asked.model.name}, budget {self.asked.budget}"


def place(name: str) -> tuple[str, str]:
    """Divide ``blocks.0.attn.qkv.weight`` into ``blocks.0`` and ``qkv.weight``."""
    parts = name.split(".")
    last_number = max((i for i, p in enumerate(parts) if p.isdigit()), default=-1)
    block = ".".join(parts[: last_number + 1]) or "outside the blocks"
    return block, ".".join(p for p in parts[last_number + 1 :] if p not in ("attn", "mlp"))
