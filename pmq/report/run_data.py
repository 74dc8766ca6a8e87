"""Read a finished run from its directory: no model, no torch. What is read is checked, each file alone and against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmq.core import Allocation, Inventory, PmqError
from pmq.core import own_files as files
from pmq.core.files import quoted, read_json
from pmq.core.manifest import Asked, Manifest, read_manifest
from pmq.core.validation import shown
from pmq.report import tables
from pmq.report.decisions import Decisions, read_decisions
from pmq.report.tables import Column, read_table

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
        if not self.pruned and set(found.components) != set(self.inventory.names):
            raise self._damaged("the chosen allocation and inventory.json name different components")
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
        roles = {component.name: component.role for component in self.inventory}
        for name, role in dict(zip(table["component"], table["role"], strict=True)).items():
            if roles.get(name) != role:
                raise self._damaged(f"sensitivity.csv has {role} {shown(name)}, which inventory.json has not")
        table["group_size"] = table.get("group_size", np.nan)
        table["granularity"] = table.get("granularity", "")
        if table.duplicated(["component", "bits", "quantizer", "group_size"]).any():
            raise self._damaged("sensitivity.csv has a choice of a component twice")
        return table

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """What each round cost and gained."""
        return self._table(files.ROUNDS, tables.ROUNDS)

    @cached_property
    def spent(self) -> pd.DataFrame | None:
        """Where the chosen allocation's costs go, by block and part of it, if the run says."""
        if files.unchanged(self.path, self.manifest.files, files.SPENT) is None:
            return None
        table = self._table(files.SPENT, tables.SPENT)
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
