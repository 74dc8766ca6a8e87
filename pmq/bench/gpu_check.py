"""A GPU against the CPU: ``python -m pmq.bench.gpu_check [--device cuda] [--models NAME...] --out FILE.json``.

Each model is quantized and simulated on both. Their results differ by the order in which floats are summed, which a network of
few bits amplifies; so they are compared with the CPU's own simulation in another order (products of integers against FP32), and
the check fails if the devices differ much more. Steps of a search, whole searches and fine-tuning are timed on both. With
``--device cpu`` the check compares the CPU with itself: a run without a GPU of everything that a GPU would run.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pmq
from pmq.bench.transforms import perturb
from pmq.core.files import write_text
from pmq.core.progress import message
from pmq.core.recipe import find_recipe
from pmq.evaluation import Accuracy
from pmq.models import create_model, model_info
from pmq.optimize import Space, read_space
from pmq.pipeline.subject import Subject
from pmq.pipeline.torch_modes import undisturbed
from pmq.quant import Quantized, build_quantized_model, prepare, quantize
from pmq.runtimes.timing import machine

#: models by default: on a GPU, and on the CPU alone
MODELS = ("embedded", "deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")
DRY = ("embedded",)
#: calibration images; images that are compared; images of a timed pass, which is repeated
N_CALIBRATION, N_COMPARED, BATCH, REPEATS = 16, 64, 64, 10
#: factor on the CPU's difference from itself within which a device stays, and a KL divergence that is allowed anyway
FACTOR, FLOOR = 3.0, 1e-6
#: largest relative difference of two devices' sensitivities at the median choice
SENSITIVITY = 1e-2


def opened(name: str) -> tuple[Any, Tensor]:
    """Return a model, real or of random weights, and images for it, which are noise where the model is random."""
    if name == "embedded":
        images = pmq.open_images(None, None).calibration_images(N_CALIBRATION + N_COMPARED + 112, 0)
        return create_model(), images
    model = create_model(name, pretrained=False)
    perturb(model)
    generator = torch.Generator().manual_seed(0)
    return model, torch.randn(N_CALIBRATION + N_COMPARED, *model_info(model).data_config["input_size"], generator=generator)


def quantized_on(device: str, model: Any, images: Tensor, bits: int) -> tuple[Subject, Quantized]:
    """Quantize a model uniformly on a device by the recipe ``best``."""
    subject = Subject.of(copy.deepcopy(model), device, images[:N_CALIBRATION])
    recipe = find_recipe("best")
    prepared = prepare(copy.deepcopy(subject.model), subject.inventory, images[:N_CALIBRATION], recipe, 0, task=subject.task)
    space = Space(read_space("default"), subject.inventory, recipe.estimator)
    return subject, quantize(prepared, space.uniform(bits, bits))


@torch.no_grad()
def outputs_on(device: str, subject: Subject, quantized: Quantized, images: Tensor, integers: bool = True) -> Tensor:
    """Return the outputs of a quantized model, simulated on the subject's device."""
    simulation = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, quantized, integers)
    return torch.cat([simulation.model(batch.to(device)).cpu() for batch in images.split(16)])


def differences(device: str, model: Any, images: Tensor, bits: int) -> dict[str, float]:
    """Return how a device's simulation and sensitivities differ from the CPU's, and the CPU's simulation from itself."""
    compared = images[N_CALIBRATION : N_CALIBRATION + N_COMPARED]
    subject, quantized = quantized_on("cpu", model, images, bits)
    on_device, requantized = quantized_on(device, model, images, bits)
    reference = outputs_on("cpu", subject, quantized, compared)
    same = {
        "itself": outputs_on("cpu", subject, quantized, compared, integers=False),  # the same model in another order of sums
        "simulation": outputs_on(device, on_device, quantized, compared),  # the CPU's tensors on the device
        "quantization": outputs_on(device, on_device, requantized, compared),  # everything on the device
    }
    row: dict[str, float] = {}
    for name, outputs in same.items():
        total = Accuracy(task=subject.task)
        total.update(reference, outputs, None)
        metrics = total.compute()
        row |= {f"agreement_{name}": float(metrics["agreement"] or 0), f"kl_{name}": float(metrics["kl"] or 0)}
    return row


def sensitivities(device: str, model: Any, images: Tensor) -> Tensor:
    """Return the sensitivities of all choices, measured on a device."""
    table = pmq.sensitivity(
        copy.deepcopy(model), images[: 2 * N_CALIBRATION], ("fisher_shrunk",), n_calibration=N_CALIBRATION, device=device
    )
    return torch.from_numpy(table["error"].to_numpy(float, copy=True))


def seconds_of(device: str, call: Callable[[], object], repeats: int = 1) -> float:
    """Return the median seconds of a call, including what the device has queued."""
    times = []
    for _ in range(repeats):
        _finish(device)
        start = time.perf_counter()
        call()
        _finish(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def times(device: str, model: Any, images: Tensor) -> dict[str, float]:
    """Return the seconds of passes of FP32 and W4A4, of a sensitivity table, of a search and of an epoch of fine-tuning."""
    subject, quantized = quantized_on(device, model, images, 4)
    simulation = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, quantized)
    batch = images[:BATCH].to(device)
    reference = subject.module
    with torch.no_grad():
        fp32 = seconds_of(device, lambda: reference(batch), REPEATS)
        w4a4 = seconds_of(device, lambda: simulation.model(batch), REPEATS)
        copies = _copies(device, lambda: simulation.model(batch))
    row = {"fp32_s": fp32, "w4a4_s": w4a4, "copies_to_cpu": copies}
    row["sensitivity_s"] = seconds_of(device, partial(sensitivities, device, model, images))
    with tempfile.TemporaryDirectory() as folder:
        run, split = pmq.RunOptions(device=device, batch_size=BATCH), pmq.DataSplit(N_CALIBRATION, N_COMPARED)
        searched = partial(pmq.search, copy.deepcopy(model), images, "4bit", out=Path(folder) / "search", run=run, split=split)
        row["search_s"] = seconds_of(device, searched)
        row["finetune_s"] = seconds_of(device, partial(finetuned_on, device, model, images, Path(folder) / "tuned"))
    return row


@dataclass(frozen=True)
class Training:
    """Images in memory, as a source of images for fine-tuning."""

    images: Tensor

    def batches(self, batch_size: int, indices: list[int]) -> Iterator[tuple[Tensor, None]]:
        """Yield the images of ``indices`` in batches."""
        for part in torch.tensor(indices).split(batch_size):
            yield self.images[part], None


def finetuned_on(device: str, model: Any, images: Tensor, out: Path) -> None:
    """Prune a quarter of a model and fine-tune it for an epoch."""
    held_out, training = images[:N_CALIBRATION], Training(images[N_CALIBRATION:])
    pruned = pmq.prune(copy.deepcopy(model), held_out, 0.25, importance="random", device=device).allocation
    order = list(range(len(training.images)))
    teacher = copy.deepcopy(model).to(device)
    pmq.finetune(teacher, pruned, training, order, held_out, epochs=1, batch_size=N_CALIBRATION, out=out)


def _copies(device: str, call: Callable[[], object]) -> float:
    """Return how many copies from the device to the CPU a call makes, each of which waits for everything queued before."""
    if torch.device(device).type != "cuda":
        return 0.0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        call()
        _finish(device)
    return float(sum(event.count for event in profiler.key_averages() if "DtoH" in event.key))


@undisturbed
def row_of(name: str, device: str) -> dict[str, Any]:
    """Return the comparison and the times of a model."""
    model, images = opened(name)
    row: dict[str, Any] = {"model": name}
    for bits in (8, 4):
        row |= {f"w{bits}a{bits}_{key}": value for key, value in differences(device, model, images, bits).items()}
    ours, theirs = sensitivities("cpu", model, images), sensitivities(device, model, images)
    row["sensitivity_difference"] = float(((theirs - ours).abs() / ours.abs().clamp_min(1e-12)).median())
    for where in dict.fromkeys(("cpu", device)):
        if where == device or name in DRY:  # larger models take hours on a CPU
            row |= {f"{torch.device(where).type}_{key}": value for key, value in times(where, model, images).items()}
    failures = [
        f"W{bits}A{bits}: the simulations' KL is {row[f'w{bits}a{bits}_kl_simulation']:.2e}"
        for bits in (8, 4)
        if row[f"w{bits}a{bits}_kl_simulation"] > FACTOR * row[f"w{bits}a{bits}_kl_itself"] + FLOOR
    ]
    if row["sensitivity_difference"] > SENSITIVITY:
        failures.append(f"sensitivities differ by {row['sensitivity_difference']:.1%}")
    return row | {"failures": failures}


def card(device: str) -> str:
    """Return the name of a device."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else f"{kind} of {machine()['processor']}"


def main() -> int:
    """Compare, time and write the result; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    kind = torch.device(args.device).type
    if kind == "cuda" and not torch.cuda.is_available():
        print("device 'cuda' is not available here; pass --device cpu for a run without a GPU", file=sys.stderr)
        return 2
    names = args.models or (MODELS if kind != "cpu" else DRY)
    report: dict[str, Any] = {
        "device": card(args.device),
        "cpu": machine()["processor"],
        "torch": torch.__version__,
        "models": [],
    }
    for name in names:
        row = row_of(name, args.device)
        report["models"].append(row)
        message(json.dumps(row))
        write_text(args.out, json.dumps(report, indent=1) + "\n")
    failures = [f"{row['model']}: {failure}" for row in report["models"] for failure in row["failures"]]
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
