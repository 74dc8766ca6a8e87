"""Record written next to a deployed file: its contents, its costs, its proof and how to run it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pmq.core.files import write_text
from pmq.core.rundir import DEPLOYMENT
from pmq.runtimes.proof import Check


class Deployment(BaseModel):
    """Record of a deployed file.

    Attributes:
        file: file to open; ``files`` are all files that belong to it.
        status: ``proved`` or ``failed``; the name of a failed file contains ``failed``.
        layers: layer -> how it is stored and computed, as read from the file.
        size_bytes: size on disk; ``promised_bytes`` is the size computed from the allocation.
        latency_ms: median latency of one batch; ``fp32_latency_ms`` is that of the unquantized model in the same runtime (in
            its precision: FP32, or bfloat16 on ``openvino-bf16``), ``torch_latency_ms`` that of eager FP32 PyTorch,
            ``whole_latency_ms`` that of the file with all tokens if it skips some, ``unpruned_latency_ms`` that of the
            unquantized model before pruning, all timed interleaved; ``predicted_latency_ms`` is the prediction of a latency
            table, if there is one.
        load_ms: median time in which the runtime loads the file; ``load_peak_bytes`` is the memory that it needs at most
            meanwhile.
        spread: interquartile range of ``latency_ms`` relative to the median.
        agreement_simulated, kl_simulated: agreement (percent) and KL divergence (nats) with the simulation;
            ``agreement_fp32`` and ``kl_fp32`` are those with FP32, ``agreement_simulation_fp32`` is that of the simulation
            with FP32.
        n_images: number of images of these metrics.
        proof: name -> part of the proof.
        run: commands that use the file.
        input, layout: ``float`` for prepared images or ``uint8`` for pixel values that the file prepares; ``nchw`` or ``nhwc``.
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
    load_ms: float | None = None
    load_peak_bytes: int | None = None
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
        """Whether every part of the proof passed."""
        return all(check.passed for check in self.proof.values())

    def save(self, folder: Path) -> Path:
        """Write the record to ``folder`` as JSON."""
        return write_text(folder / DEPLOYMENT, self.model_dump_json(indent=1, by_alias=True) + "\n")
