"""What other commands add to a run: deployed files and maps of patches, checked before they are shown."""

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
    """What is not shown may be whatever it is."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Check(_Shown):
    passed: bool


class _Deployed(_Shown):
    """What a page shows of a deployed file; older ones do not tell all of it."""

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
    """Bits of the patches of some images, by activation."""

    label: str
    prefix: Count
    images: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]] = Field(min_length=1)
    bits: dict[str, list[Digits]] = Field(min_length=1)


def deployments(folder: Path) -> list[dict[str, Any]]:
    """Every deployed file below a run."""
    found = []
    for path in sorted(folder.glob(f"**/{DEPLOYMENT}")):
        deployed = validated(_Deployed, read_json(path, "deployment"), f"deployment {quoted(path)}")
        found.append(deployed.model_dump() | {"folder": str(path.parent.relative_to(folder))})
    return found


def patch_maps(folder: Path) -> list[dict[str, Any]]:
    """Every map of patches of a run, over the images that it is for."""
    return [
        _patch_map(path)
        for pattern in (f"plots/{PATCHES}", f"allocations/*-plots/{PATCHES}")
        for path in sorted(folder.glob(pattern))
    ]


def _patch_map(path: Path) -> dict[str, Any]:
    what = f"map of patches {quoted(path)}"
    found = validated(_Map, read_json(path, "map of patches"), what)
    for name, rows in found.bits.items():
        if len(rows) != len(found.images) or len({len(row) for row in rows}) != 1 or len(rows[0]) <= found.prefix:
            raise PmqError(f"{what}: {name!r} does not have bits of the patches of each image; draw it anew with `pmq patches`")
    return found.model_dump()
