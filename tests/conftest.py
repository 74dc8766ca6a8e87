"""A tiny random ViT with everything laid over it, shared by all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from pmq.core import Allocation, Inventory
from pmq.graph import CapturedModel, analyse, captured
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.optimize import Space, read_space
from pmq.quant import Calibration, Simulator, calibrate
from tests.forked import Forker
from tests.shallow import shallow_searches

os.environ.setdefault("PMQ_PROGRESS", "0")
ROOT = str(Path(__file__).resolve().parents[1])
SHARED = Path(__file__).resolve().parents[2] / "shared"
IMAGENET = Path(os.environ.get("PMQ_IMAGENET", SHARED / "imagenet-mini"))
WEIGHTS = Path(os.environ.get("PMQ_WEIGHTS", SHARED / "weights"))
needs_imagenet = pytest.mark.skipif(
    not (IMAGENET / "val").is_dir() or not (WEIGHTS / "deit_tiny_patch16_224.safetensors").is_file(),
    reason="no ImageNet images or DeiT-Tiny weights: set PMQ_IMAGENET and PMQ_WEIGHTS",
)


def make_tiny(**options: object) -> nn.Module:
    """A two-block ViT whose weights are large enough for quantization to matter."""
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 7} | options
    model = timm.create_model("vit_tiny_patch16_224", **settings).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "pos" not in name and "cls" not in name:
                p.mul_(8)
    return model


def make_captured(**options: object) -> CapturedModel:
    """The same, captured."""
    return captured(make_tiny(**options), torch.zeros(1, 3, 32, 32))


@dataclass
class Tiny:
    module: nn.Module
    model: CapturedModel
    images: Tensor
    inventory: Inventory
    calibration: Calibration
    space: Space


PMQ = [sys.executable, "-m", "pmq"]
#: the same with shallow searches
SHALLOW = [sys.executable, "-m", "tests.shallow"]
ENVIRONMENT = os.environ | {
    "PMQ_PROGRESS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")])),
}


FORKER = Forker(ENVIRONMENT)


def pmq(
    *args: str, cwd: Path | None = None, command: Sequence[str] = PMQ, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own; ``fresh``: in an interpreter of its own."""
    if not fresh:
        return FORKER.run(command[-1], args, cwd)
    return subprocess.run([*command, *args], capture_output=True, text=True, check=False, cwd=cwd, env=ENVIRONMENT)


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default search, as a newcomer runs it."""
    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.getbasetemp()
    folder = shared / "newcomer"
    with FileLock(shared / "newcomer.lock"):  # once for all processes
        if not (folder / "answer.json").is_file():
            folder.mkdir()
            start = time.monotonic()
            done = pmq("search", "--budget", "4bit", "--json", cwd=folder, fresh=True)
            assert done.returncode == 0, done.stderr
            answer = json.loads(done.stdout)
            assert {"run", "allocation", "size_bytes", "bit_ops", "agreement", "kl", "seconds"} <= set(answer)
            assert answer["seconds"] < time.monotonic() - start
            (folder / "answer.json").write_text(done.stdout)
    return folder / json.loads((folder / "answer.json").read_text())["run"]


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Makes the searches of a module shallow, with ``pytestmark = pytest.mark.usefixtures("shallow")``."""
    with shallow_searches():
        yield


@pytest.fixture(scope="session")
def searched() -> Allocation:
    """What some search of the tiny ViT chose."""
    from pmq.api import search
    from tests.asked import asked

    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    quick = {"recipe": "fast", "n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "max_evals": 2}
    with shallow_searches():
        return search(make_tiny(), images, "w4a8", space="w4a8", **asked(**quick)).allocation


@pytest.fixture(scope="session")
def _tiny() -> Tiny:
    module = make_tiny()
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model, inventory = analyse(module, images[:1])
    return Tiny(module, model, images, inventory, calibrate(model, inventory, images), Space(read_space("default"), inventory))


@pytest.fixture
def tiny(_tiny: Tiny) -> Tiny:
    return _tiny


@pytest.fixture
def simulator(tiny: Tiny):
    with Simulator(tiny.model, tiny.inventory, tiny.calibration) as simulator:
        yield simulator
