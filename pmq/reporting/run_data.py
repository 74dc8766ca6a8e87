"""Contents of a finished run, read without torch from its directory; each file is checked alone and against the others."""

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
from pmq.core.description import describe_components
from pmq.core.files import quoted, read_json
from pmq.core.genomes import DIGITS
from pmq.core.manifest import Asked, Manifest, read_manifest
from pmq.core.validation import shown
from pmq.reporting import tables
from pmq.reporting.decisions import GenomeDecisions, read_decisions
from pmq.reporting.tables import Column, read_table

_RESTORE = "restore the files, or search again with another `out`"


@dataclass(frozen=True)
class RunData:
    """Contents of a run directory, read on first access."""

    path: Path

    @cached_property
    def manifest(self) -> Manifest:
        """Manifest of the run.

        Raises:
            PmqError: the run is not finished.
        """
        return read_manifest(self.path)

    @cached_property
    def settings(self) -> Asked:
        """Settings of the search."""
        return self.manifest.asked(self.path)

    @cached_property
    def inventory(self) -> Inventory:
        """Components of the model."""
        path = self.file(files.INVENTORY)
        return Inventory.from_dict(read_json(path, "inventory"), f"inventory {quoted(path)}")

    @cached_property
    def allocation(self) -> Allocation:
        """Chosen allocation."""
        allocation = Allocation.load(self.file(files.CHOSEN))
        if not self.searched:
            return allocation
        inventory = allocation.inventory if allocation.pruning is None else None  # that of a pruned model is narrower
        same_names = set(allocation.components) == set(self.inventory.names)
        if not same_names or (inventory is not None and inventory != describe_components(self.inventory)):
            raise self._damaged("the chosen allocation and inventory.json have different components")
        return allocation

    @cached_property
    def decisions(self) -> GenomeDecisions | None:
        """Decisions that the digits of a genome stand for, or None in older runs."""
        path = files.unchanged(self.path, self.manifest.files, files.DECISIONS)
        return None if path is None else read_decisions(path, self.inventory)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """Error of each choice of each component."""
        table = self._table(files.SENSITIVITY, tables.SENSITIVITY)
        known = {(component.name, component.role, component.kind) for component in self.inventory}
        for name, role, kind in set(zip(table["component"], table["role"], table["kind"], strict=True)) - known:
            raise self._damaged(f"sensitivity.csv has {role} {shown(name)} of kind {shown(kind)}, which inventory.json lacks")
        if table["metric"].nunique() != 1:
            raise self._damaged("sensitivity.csv has several metrics")
        table["group_size"] = table.get("group_size", np.nan)
        table["granularity"] = table.get("granularity", "")
        if table.duplicated(["component", "bits", "quantizer", "group_size"]).any():
            raise self._damaged("sensitivity.csv has a choice of a component twice")
        return table

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Times and results of each round."""
        table = self._table(files.ROUNDS, tables.ROUNDS)
        if not table["simulated"].is_monotonic_increasing:
            raise self._damaged("rounds.csv has fewer simulated allocations after a round than before it")
        return table

    @cached_property
    def cost_breakdown(self) -> pd.DataFrame | None:
        """Costs of the chosen allocation by block and part of a block, or None in older runs."""
        if files.unchanged(self.path, self.manifest.files, files.SPENT) is None:
            return None
        table = self._table(files.SPENT, tables.COST_BREAKDOWN)
        with np.errstate(over="ignore"):  # an overflow is reported as a difference
            self._check_costs("spent.csv", table.select_dtypes("number").sum())
        modules = set(table["module"])
        if len(modules) < len(table) or len(modules - {component.module for component in self.inventory}) > 1:
            raise self._damaged(
                "spent.csv has a module twice, or modules that inventory.json lacks"
            )  # one row is outside all modules
        places = [place(module) for module in table["module"]]
        in_block = [block[-1:].isdigit() for block, _ in places]
        table["block"] = [block if inside else part for (block, part), inside in zip(places, in_block, strict=True)]
        table["part"] = [
            part or "products" if inside else "outside the blocks" for (_, part), inside in zip(places, in_block, strict=True)
        ]
        return table

    @cached_property
    def points(self) -> pd.DataFrame:
        """All points: those of the front and the simulated ones with all columns, the others with their costs only."""
        front = self._table(files.FRONT, tables.FRONT)
        dominated = self._table(files.POINTS, tables.POINTS, least=0)
        if ("latency_ms" in front) != ("latency_ms" in dominated):
            raise self._damaged("front.csv and points.csv have different costs")
        points = pd.concat([front, dominated], ignore_index=True) if len(dominated) else front
        points["chosen"] = [value is True for value in points["chosen"]] if "chosen" in points else False
        if "chosen" in front and points["chosen"].sum() != 1:
            raise self._damaged(f"front.csv and points.csv have {points['chosen'].sum()} chosen points instead of one")
        if points.duplicated(["source", "genome"]).any():
            raise self._damaged("front.csv or points.csv has a point twice")
        if "chosen" in front and self.allocation.patches is None and not self.settings.widths:
            self._check_costs("front.csv", points[points["chosen"]].iloc[0], ("size_bytes", "bit_ops"))
        if not points["front"].any() or not (points["kl"].notna() | points["feature_error"].notna()).any():
            raise self._damaged("front.csv has no Pareto front or no simulated points")
        searched = points["predicted_error"].notna()
        if points.loc[searched, "genome"].isna().any():
            raise self._damaged("front.csv has a point of the search without a genome")
        self.digits(points.loc[searched, "genome"])
        return points

    def digits(self, genomes: Sequence[str]) -> NDArray[np.int64]:
        """Return genomes as numbers ``(B, D)``.

        Raises:
            PmqError: the genomes have different lengths, or do not match the run's decisions.
        """
        length = len(genomes.iloc[0]) if isinstance(genomes, pd.Series) and len(genomes) else 0
        if {len(text) for text in genomes} - {length}:
            raise self._damaged("front.csv and points.csv have genomes of different lengths")
        codes = np.frombuffer("".join(genomes).encode("ascii"), np.uint8).reshape(len(genomes), length).astype(np.int64)
        numbers = np.full(128, len(DIGITS))
        numbers[[ord(digit) for digit in DIGITS]] = np.arange(len(DIGITS))
        digits = numbers[codes]
        if self.decisions is not None and len(digits):
            counts = [len(decision.choices[0]) for decision in self.decisions]
            if len(counts) != length or (digits >= counts).any():
                raise self._damaged("front.csv and points.csv have genomes that do not match decisions.json")
        return digits

    def is_fp32(self, genome: str) -> bool:
        """Return whether a genome leaves every component in FP32; of older runs without decisions, no genome is known to."""
        if self.decisions is None or not genome:
            return False
        chosen = ((row[DIGITS.index(digit)] for row in d.choices) for d, digit in zip(self.decisions, genome, strict=True))
        return all(choice.is_fp32 for choices in chosen for choice in choices)

    def file(self, name: Path) -> Path:
        """Return the path of one of the run's files.

        Raises:
            PmqError: the file is missing, or was changed since the run wrote it.
        """
        path = files.unchanged(self.path, self.manifest.files, name)
        if path is None:
            raise PmqError(f"{name.as_posix()} of the run in {quoted(self.path)} does not exist; {_RESTORE}")
        return path

    def _check_costs(self, name: str, costs: pd.Series, keys: Sequence[str] = ("size_bytes", "bit_ops", "latency_ms")) -> None:
        """Check that the costs of the chosen allocation in a table are those in its file."""
        achieved = {} if self.allocation.budget is None else self.allocation.budget.achieved
        for key in keys:
            if key in costs and key in achieved and not math.isclose(costs[key], achieved[key], rel_tol=1e-6, abs_tol=1e-6):
                difference = f"{key} {costs[key]:.9g}, while the chosen allocation has {achieved[key]:.9g}"
                raise self._damaged(f"{name} has {difference}")

    def _table(self, name: Path, columns: Mapping[str, Column], least: int = 1) -> pd.DataFrame:
        return read_table(self.file(name), "table", columns, least)

    def _damaged(self, fault: str) -> PmqError:
        return PmqError(f"the run in {quoted(self.path)} is damaged: {fault}; {_RESTORE}")

    @property
    def searched(self) -> bool:
        """Whether the run is a search, and not just a pruned or fine-tuned model."""
        return self.manifest.unsearched is None

    @property
    def heading(self) -> str:
        """Heading of the run: the model, and the budget of a search."""
        if self.searched:
            return self.title
        return f"{self.allocation.model.name}, {'pruned' if self.manifest.pruned else 'fine-tuned'}"

    @property
    def title(self) -> str:
        """Title of a search: model and budget."""
        return f"{self.settings.model.name}, budget {self.settings.budget}"


def place(name: str) -> tuple[str, str]:
    """Split a name such as ``blocks.0.attn.qkv.weight`` into its block ``blocks.0`` and the part ``qkv.weight``."""
    parts = name.split(".")
    last_number = max((i for i, p in enumerate(parts) if p.isdigit()), default=-1)
    block = ".".join(parts[: last_number + 1]) or "outside the blocks"
    return block, ".".join(p for p in parts[last_number + 1 :] if p not in ("attn", "mlp"))
