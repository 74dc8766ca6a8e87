"""Artefacts that other commands add to a run: deployed files and maps of patches, validated before they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from pmq.core.errors import PmqError
from pmq.core.files import quoted, read_json
from pmq.core.patches import Digits
from pmq.core.run_files import DEPLOYMENT
from pmq.core.validation import validated
from pmq.reporting.patch_data import NAME as PATCHES

Count = Annotated[int, Field(ge=0)]


class _Shown(BaseModel):
    """Base of models that validate only the fields a page shows."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Check(_Shown):
    passed: bool


class _Deployed(_Shown):
    """Fields of a deployment that a page shows; deployments of older versions lack some."""

    target: str
    size_bytes: Count
    latency_ms: FiniteFloat
    predicted_latency_ms: float | None = None
    fp32_latency_ms: float | None = None
    unpruned_latency_ms: float | None = None
    torch_latency_ms: float | None = None
    agreement_fp32: float | None = None
    agreement_simulated: float | None = None
    agreement_simulation_fp32: float | None = None
    kl_fp32: float | None = None
    n_images: Count
    threads: Count
    machine: dict[str, str] = Field(default_factory=dict)
    run: list[str] = Field(default_factory=list)
    proof: dict[str, _Check]


class _Map(_Shown):
    """Map of patches: bit-widths of the tokens of some images, by activation."""

    label: str
    prefix: Count
    images: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]] = Field(min_length=1)
    bits: dict[str, list[Digits]] = Field(min_length=1)


def deployments(folder: Path) -> list[dict[str, Any]]:
    """Return all deployments below the directory of a run."""
    entries = []
    for path in sorted(folder.glob(f"**/{DEPLOYMENT}")):
        deployed = validated(_Deployed, read_json(path, "deployment"), f"deployment {quoted(path)}")
        entries.append(deployed.model_dump() | {"folder": str(path.parent.relative_to(folder))})
    return entries


def patch_maps(folder: Path) -> list[dict[str, Any]]:
    """Return all maps of patches of a run, with their images."""
    return [
        _patch_map(path)
        for pattern in (f"plots/{PATCHES}", f"allocations/*-plots/{PATCHES}")
        for path in sorted(folder.glob(pattern))
    ]


def _patch_map(path: Path) -> dict[str, Any]:
    label = f"map of patches {quoted(path)}"
    patch_map = validated(_Map, read_json(path, "map of patches"), label)
    for name, rows in patch_map.bits.items():
        if len(rows) != len(patch_map.images) or len({len(row) for row in rows}) != 1 or len(rows[0]) <= patch_map.prefix:
            raise PmqError(f"{label}: {name!r} lacks bit-widths of some images or patches; run `pmq patches` again")
    return patch_map.model_dump()
