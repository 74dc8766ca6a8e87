"""What is written beside a deployed file: what it is, what it costs, how it was proved, how to run it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pmq.core.files import write_text
from pmq.core.rundir import DEPLOYMENT
from pmq.runtimes.proof import Check


class Deployment(BaseModel):
    """A deployed file.

    Attributes:
        file: the one to open; ``files`` are all that belong to it.
        status: ``proved`` or ``failed``; a failed file has ``failed`` in its name.
        layers: layer -> how it is stored and computed, as read off the file.
        size_bytes: on disk; ``promised_bytes`` by the allocation.
        latency_ms: median of one batch; ``fp32_latency_ms`` of the unquantized model in the same
            runtime (whose precision that is: FP32, or bfloat16 on ``openvino-bf16``), ``torch_latency_ms`` of eager FP32
            PyTorch, ``whole_latency_ms`` of the file with all its tokens where it leaves out some, ``unpruned_latency_ms`` of
            the unquantized model before it was pruned, all in turns;
            ``predicted_latency_ms`` by a latency table, if there is one.
        spread: relative distance of the quartiles of ``latency_ms``.
        agreement_simulated, kl_simulated: with the simulation, percent and nats; ``agreement_fp32``, ``kl_fp32`` with FP32;
            ``agreement_simulation_fp32`` of the simulation itself with FP32.
        n_images: of these figures.
        proof: each part of it.
        run: how to use the file.
        input, layout: ``float``: prepared images, or ``uint8``: values of pictures, which the file prepares; ``nchw``, ``nhwc``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    files: list[str]
    target: str
    status: str
    model: str
    versions: dict[str, str]
    machine: dict[str, str]
    layers: dict[str, str]
    size_bytes: int
    promised_bytes: float
    batch_size: int
    threads: int
    latency_ms: float
    spread: float
    fp32_latency_ms: float
    torch_latency_ms: float
    whole_latency_ms: float | None = None
    unpruned_latency_ms: float | None = None
    predicted_latency_ms: float | None
    agreement_simulated: float | None
    kl_simulated: float | None
    agreement_fp32: float | None
    kl_fp32: float | None
    agreement_simulation_fp32: float | None
    n_images: int
    proof: dict[str, Check]
    run: list[str]
    input: str = "float"
    layout: str = "nchw"

    @property
    def passed(self) -> bool:
        """Whether every part of the proof held."""
        return all(check.passed for check in self.proof.values())

    def save(self, folder: Path) -> Path:
        """Write it."""
        return write_text(folder / DEPLOYMENT, self.model_dump_json(indent=1) + "\n")
