"""A step of a deployment for those who ask for it: write the proof that travels with the file."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pmq.core.array import PICTURES
from pmq.core.files import is_file, write_bytes
from pmq.core.progress import message
from pmq.core.run_files import BUNDLE
from pmq.pipeline.deploy.build import Built
from pmq.pipeline.deploy.plan import DeployPlan
from pmq.quant import Simulator
from pmq.runtimes.checker import FACTS, Observed, write_bundle
from pmq.runtimes.intake import Intake
from pmq.runtimes.recorded import record_layers
from pmq.runtimes.session import LAYER_OUTPUT, OUTPUT, layer_output

#: number of images in it
N_IMAGES = 4


def write_bundle_of(plan: DeployPlan, built: Built, file: Path) -> Path:
    """Write a folder whose programs check on a device that ``file`` computes what was simulated; return the folder."""
    images, runtime, folder = plan.images[:N_IMAGES], plan.runtime, plan.out / BUNDLE
    simulated = layer_outputs(built.simulation, [layer.name for layer in built.layers], images)
    inputs = np.stack([plan.intake.fed(image) for image in images.split(1)])
    probed = runtime.probed(file)
    session = runtime.session(probed.model, plan.threads)
    computed = [dict(zip(probed.names, session.all(x), strict=True)) for x in inputs]
    tensors, left_out = list[Observed](), list[str]()
    for name in [*probed.names[1:], OUTPUT]:
        values = np.stack([outputs[name] for outputs in computed])
        if values.size == simulated[name].size:
            tensors.append(Observed(name, simulated[name], values))
        else:
            left_out.append(name.removesuffix(LAYER_OUTPUT))
    if left_out:
        message(f"the bundle does not compare {', '.join(left_out)}: the file computes fewer tokens there than the simulation")
    write_bundle(folder, file, runtime.name, plan.threads, inputs, tensors, probed.probes)
    for i, picture in enumerate(_pictures(plan, images)):
        write_bytes(folder / f"picture-{i}.png", picture)
    return folder


def remove_bundle(out: Path) -> None:
    """Remove the bundle of a file that was written before to the folder ``out``."""
    if is_file(out / BUNDLE / FACTS):
        shutil.rmtree(out / BUNDLE)


def layer_outputs(simulator: Simulator, layers: Sequence[str], images: Tensor) -> dict[str, Any]:
    """Return the outputs ``(N, ...)`` of layers of a simulated model, and its own, by the names of a file's tensors."""
    outputs = dict[str, list[Any]]()
    for image in images.split(1):
        calls, result = record_layers(simulator, layers, image)
        outputs.setdefault(OUTPUT, []).append(result.numpy())
        for name, pairs in calls.items():
            for number, (_, output) in enumerate(pairs, 1):
                outputs.setdefault(layer_output(name, number), []).append(output.numpy())
    return {name: np.stack(values) for name, values in outputs.items()}


def _pictures(plan: DeployPlan, images: Tensor) -> list[bytes]:
    """Return what the inputs show as PNG files; none where they are no pictures, or their preprocessing is not known."""
    config = plan.subject.info.data_config
    if images.shape[1] not in PICTURES or "mean" not in config or "std" not in config:
        return []
    pictures = []
    for array in Intake.of("uint8", "nhwc", config).fed(images):
        buffer = io.BytesIO()
        Image.fromarray(array if array.shape[-1] == 3 else array[..., 0]).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return pictures
