"""Every command that is printed as next runs as it is printed, however the model came in."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pmq import cli
from tests.conftest import make_tiny

pytestmark = pytest.mark.usefixtures("shallow")

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
FACTORY = f"""
import timm

def make():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **{SIZES})
    model.pretrained_cfg = {{**model.pretrained_cfg, "input_size": (3, 32, 32)}}
    return model
"""
#: so that little is computed; what is printed as next has its own defaults
FEW = "--calib-images 6 --held-out 12 --rounds 1 --max-evals 4 --recipe fast"
#: what is run at first; {} is the model as it is named, with its flags, {again} what a file alone is not trusted to say
FIRST = {
    "search": f"search {{}} --budget w4a8 --space w4a8 {FEW} --out run",
    "another budget": "search run --budget 6bit",
    "patches": "patches run {again} --out elsewhere.json",
    "profile": "profile {} --rounds 3",
    "prune": "prune {} --ratio 0.5 --calib-images 8 --limit 16 --out smaller",
    "finetune": "finetune smaller {base} --train-images 8 --held-out 8 --epochs 1 --batch-size 8 --limit 16 --out tuned",
    "finetune bits": "finetune run {again} --train-images 8 --held-out 8 --epochs 1 --batch-size 8 --limit 16 --out trained",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user works: pictures, weights, a model's folder, and code."""
    rng = np.random.default_rng(0)
    for label in range(7):
        (tmp_path / "pictures" / f"class{label}").mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"class{label}" / f"{number}.png")
    weights = make_tiny().state_dict()
    (tmp_path / "own").mkdir()
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 7, "model_args": SIZES}
    config["pretrained_cfg"] = {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "own" / "model.safetensors")
    save_file(weights, tmp_path / "own.safetensors")
    (tmp_path / "nextmodel.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Run a line, which must succeed; give what it prints as next."""
    monkeypatch.setattr(sys, "argv", ["pmq", *shlex.split(line)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed = capfd.readouterr()
    assert left.value.code == 0, f"{line}\n{printed.err[-1500:]}"
    nexts = [text.removeprefix("next: ") for text in printed.out.splitlines() if text.startswith("next: ")]
    return [part for text in nexts for part in text.split("; ")]


@pytest.mark.parametrize(
    ("model", "commands"),
    [
        ("local-dir:own --data pictures", tuple(FIRST)),
        ("nextmodel:make --checkpoint own.safetensors --data pictures", ("search", "another budget", "patches", "prune")),
        (
            "vit_tiny_patch16_224 --num-classes 7 --checkpoint own.safetensors --data pictures --model-kwargs "
            + " ".join(f"{name}={value}" for name, value in SIZES.items()),
            ("search", "patches", "profile"),
        ),
    ],
)
def test_what_is_printed_as_next_runs(
    folder: Path, model: str, commands: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    again = model.split()[0] if ":" in model else ""
    waiting = [(FIRST[name].format(model, again=again, base=f"--base {again}"), name) for name in commands]
    seen: dict[str, str] = {}
    picture = str(next((folder / "pictures").rglob("*.png")))
    while waiting:
        line, why = waiting.pop(0)
        if line in seen:
            continue
        seen[line] = why
        told = run(line, monkeypatch, capfd)
        assert told or not line.startswith(("search", "patches", "prune", "profile", "finetune")), line
        for then in told:
            program, _, rest = then.partition(" ")
            assert program == "pmq", then
            # What follows from what follows is as the first of its kind; only its images are few here.
            if why in commands:
                waiting.append((rest.replace("IMAGE", shlex.quote(picture)), f"next of {why}"))
    assert len(seen) > len(commands)
