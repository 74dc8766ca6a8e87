"""Peak memory of calibration and quantization with many images, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import torch

from pmq.core.memory_limit import peak_bytes
from pmq.core.recipe import find_recipe
from pmq.graph import analyse
from pmq.models import create_model, model_info
from pmq.models.float_products import tune_process
from pmq.optimize import Space, read_space
from pmq.quant import prepare, quantize


def calibration_peak(model: str, n_images: int, recipe: str = "best") -> float:
    """Return the peak memory of a fresh process in megabytes, with random weights and noise as images."""
    command = [sys.executable, "-m", __name__, model, str(n_images), recipe]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(name: str, n_images: int, recipe: str) -> None:
    """Calibrate, quantize and print the peak memory in megabytes."""
    tune_process()
    module = create_model(name, pretrained=False)
    images = torch.randn(n_images, *model_info(module).data_config["input_size"])
    model, inventory = analyse(module, images[:1])
    prepared = prepare(model, inventory, images, find_recipe(recipe))
    quantize(prepared, Space(read_space("default"), inventory, prepared.recipe.estimator).uniform(4, 4))
    print(peak_bytes() / 1e6)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
