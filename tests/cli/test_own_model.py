"""A classifier of one's own, from checkpoint to a file that runs: all that the page "Your own model" says, as it stands there."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import pmq
from pmq.core import Allocation
from pmq.data.embedded import embedded_source
from pmq.models import create_model, model_info
from tests.conftest import ENVIRONMENT, ROOT, SHALLOW
from tests.conftest import pmq as run_pmq

PAGE = (Path(ROOT) / "docs" / "your-own-model.md").read_text()
PREPARED: dict[str, Any] = {"mean": [0.3] * 3, "std": [0.35] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
TRAINED, JUDGED, SIDE = 1000, 200, 40


def blocks(language: str) -> list[tuple[str, str]]:
    """Blocks of code on the page: what each is called, and the code."""
    found = re.findall(rf"```{language}(?: title=\"([^\"]+)\")?\n(.*?)```", PAGE, re.DOTALL)
    return [(title, code) for title, code in found]


def pictures(root: Path, split: str, count: int) -> None:
    """The embedded images, in colour and larger, in folders ``class1`` to ``class10``."""
    source = embedded_source("train" if split == "train" else "test", model_info(create_model())).dataset.dataset
    for index in range(count):
        image, label = source[index]
        levels = ((image[0] - image.min()) / (image.max() - image.min()) * 255).round().to(torch.uint8)
        folder = root / "pictures" / split / f"class{int(label) + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels.numpy()).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(
            folder / f"{index}.png"
        )


def own_module(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("mymodel", root / "mymodel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 12) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * 16)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(-(-len(images) // 16)):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder as the page takes it to be, and the top-1 that the model was trained to."""
    root = tmp_path_factory.mktemp("own")
    ((title, code),) = [block for block in blocks("python") if block[0] == "mymodel.py"]
    (root / title).write_text(code)
    pictures(root, "train", TRAINED)
    pictures(root, "val", JUDGED)
    torch.manual_seed(0)
    model = own_module(root).make()
    data = pmq.open_images(root / "pictures", model, data_config=PREPARED)
    images, labels = (torch.cat(parts) for parts in zip(*data.calibration.batches(250), strict=True))
    train(model, images, labels)
    model.eval()
    held, truth = next(data.evaluation.batches(JUDGED))
    with torch.no_grad():
        top1 = 100 * float((model(held).argmax(1) == truth).float().mean())
    save_file(model.state_dict(), root / "own.safetensors")
    assert top1 > 55
    return root, top1


def answers(root: Path, line: str) -> str:
    """What a command of the page prints, each in a process of its own."""
    words = shlex.split(line)
    assert words[0] == "pmq"
    done = run_pmq(*words[1:], cwd=root, command=SHALLOW)
    assert done.returncode == 0, f"{line}\n{done.stderr[-1500:]}"
    return done.stdout + done.stderr


def test_the_page_runs_as_it_stands(own: tuple[Path, float]) -> None:
    root, top1 = own
    printed = {line: answers(root, line) for _, block in blocks("sh") for line in block.strip().splitlines()}
    evaluated = next(text for line, text in printed.items() if line.startswith("pmq evaluate fp32"))
    assert f"{top1:.1f}" in evaluated or f"{top1:.2f}" in evaluated
    assert "as torchvision's ImageFolder does: 'class1', 'class10'" in evaluated
    rows = list(csv.DictReader((root / "answers.csv").open()))
    assert len(rows) == JUDGED
    right = 100 * sum(Path(row["image"]).parent.name == row["class"] for row in rows) / JUDGED
    assert abs(right - top1) < 8
    deployment = json.loads((root / "run" / "deploy" / "onnxruntime" / "deployment.json").read_text())
    assert deployment["status"] == "proved"
    assert deployment["proof"]["pictures"]["found"] == 100
    model = own_module(root).make()
    simulated = pmq.simulate(create_own(root, model), Allocation.load(root / "run" / "allocations" / "chosen.json"))
    source = pmq.open_images(root / "pictures", model, data_config=PREPARED).evaluation
    files = {str(Path(file).relative_to(root)): index for index, file in enumerate(source.dataset.dataset.files)}
    names = sorted(source.classes.index, key=lambda name: source.classes.index[name]) if source.classes else []
    images = torch.stack([source.dataset.dataset[files[row["image"]]][0] for row in rows])
    with torch.no_grad():
        decided = [names[int(i)] for i in simulated(images).argmax(1)]
    assert sum(name == row["class"] for name, row in zip(decided, rows, strict=True)) >= 0.97 * JUDGED
    kept = Allocation.load(root / "constrained" / "allocations" / "chosen.json").components
    assert kept["head.weight"].bits == kept["head.input"].bits == 8
    assert kept["embed.weight"].bits == 32


def create_own(root: Path, model: nn.Module) -> nn.Module:
    from safetensors.torch import load_file

    model.load_state_dict(load_file(root / "own.safetensors"))
    return model.eval()


def test_the_same_from_python(own: tuple[Path, float]) -> None:
    root, _ = own
    ((title, code),) = [block for block in blocks("python") if block[0] == "own.py"]
    shallow = "from tests.shallow import shallow_searches\nshallow_searches().__enter__()\n"
    (root / title).write_text(shallow + code)
    done = subprocess.run([sys.executable, title], capture_output=True, text=True, check=False, cwd=root, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-1500:]
    assert "-onnxruntime.onnx: " in done.stdout
    assert (root / "python-run" / "report.html").is_file()


def test_a_pruned_model_of_ones_own_goes_on_in_a_new_process_as_it_says(own: tuple[Path, float]) -> None:
    root, _ = own
    flags = "--data pictures --mean 0.3 0.3 0.3 --std 0.35 0.35 0.35 --crop-pct 1.0 --calib-images 64 --limit 64"
    printed = answers(root, f"pmq prune mymodel:make --checkpoint own.safetensors {flags} --ratio 0.5 --out smaller")
    (then,) = [line.removeprefix("next: ") for line in printed.splitlines() if line.startswith("next: ")]
    assert then.split("; ")[0] == "pmq search smaller --base mymodel:make --budget 4bit"
    assert "not pruned" in printed  # its attentions, whose layers are functions of torch's own
    told = answers(root, "pmq evaluate w8a8 smaller --base mymodel:make --limit 64")
    assert "w8a8" in told
    words = ["evaluate", "w8a8", "smaller", "--limit", "64"]
    done = run_pmq(*words, cwd=root, command=SHALLOW, fresh=True)
    assert done.returncode == 2
    assert "name the model yourself if you trust it, that of a pruned model with --base" in done.stderr
