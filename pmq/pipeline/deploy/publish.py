"""The last step of a deployment: rename the proved files, and write ``deployment.json`` and ``deployment.md`` beside them."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from pmq.core.allocation import pmq_version
from pmq.core.files import write_text
from pmq.core.run_files import USAGE
from pmq.pipeline.deploy.build import Built
from pmq.pipeline.deploy.plan import DeployPlan
from pmq.pipeline.deploy.prove import Measured, Proved
from pmq.runtimes.deployment import Deployment
from pmq.runtimes.labels import known_preprocess
from pmq.runtimes.timing import machine
from pmq.runtimes.usage import Example, usage


def publish(plan: DeployPlan, built: Built, measured: Measured, proved: Proved) -> Deployment:
    """Rename proved files, or remove the older files that a failed one was to replace, and write what describes them."""
    files, stem, runtime = built.files, plan.stem, plan.runtime
    final = [path.with_name(path.name.replace(f"{stem}.failed", stem)) for path in files]
    if proved.passed:
        files = [path.replace(to) for path, to in zip(files, final, strict=True)]
    else:
        for old in final:
            old.unlink(missing_ok=True)
    deployment = Deployment(
        file=files[0].name,
        files=[path.name for path in files],
        target=plan.runtime.name,
        status="proved" if proved.passed else "failed",
        model=plan.subject.info.name,
        versions=runtime.versions() | {"pmq": pmq_version(), "torch": torch.__version__},
        machine=machine(),
        layers=proved.stored,
        size_bytes=proved.size_bytes,
        promised_bytes=proved.promised_bytes,
        batch_size=1,
        threads=plan.threads,
        predicted_latency_ms=None if plan.predicted is None else plan.predicted.latency_ms,
        agreement_simulated=proved.simulated["agreement"],
        kl_simulated=proved.simulated["kl"],
        agreement_fp32=proved.exact["agreement"],
        kl_fp32=proved.exact["kl"],
        agreement_simulation_fp32=proved.simulation["agreement"],
        n_images=len(plan.images),
        load_ms=measured.load_ms,
        load_peak_bytes=measured.load_peak_bytes,
        proof=proved.proof,
        input=plan.intake.values,
        layout=plan.intake.layout,
        run=[f"pmq run {shlex.quote(str(plan.out / files[0].name))} IMAGE", f"pip install 'pmq[{runtime.extra}]'"],
        **measured.speed,
    )
    deployment.save(plan.out)
    if proved.passed:
        write_text(plan.out / USAGE, usage(runtime.name, _example(plan, built, files[0])))
    else:
        (plan.out / USAGE).unlink(missing_ok=True)
    return deployment


def _example(plan: DeployPlan, built: Built, file: Path) -> Example:
    fed, preprocess = plan.intake.fed(plan.images[:1]), known_preprocess(built.metadata, file)
    return Example(file.name, tuple(fed.shape), plan.intake.values == "uint8", plan.threads, preprocess)
