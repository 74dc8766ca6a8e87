"""Whole files of every kind that the program reads, made once by the program itself: what campaigns damage.

``python -m tests.campaigns.seeds FOLDER [RUN]``; a finished run of the embedded model spares the search.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.shallow import shallow_searches

#: a search space of two modes of every layer, which is searched in seconds
SPACE = """
name: two
weight: {bits: [8, 32], granularity: channel, symmetric: true}
activation: {bits: [8, 32], symmetric: false}
pins: {q: 32, k: 32, softmax: 32, v: 32}
modes:
  int8: {weight: {bits: 8, granularity: channel, symmetric: true}, input: {bits: 8}}
  float: {}
"""
#: a space whose journal is short
LITTLE = "name: little\nweight: {bits: [4, 8], granularity: channel, symmetric: true}\nactivation: {bits: [8]}\n"
FEW = ["--recipe", "minmax", "--calib-images", "4", "--held-out", "8", "--rounds", "1", "--max-evals", "1", "--json"]
JOURNALED = ["search", "--out", "journaled", "--resume", "--space", "little.yaml", "--budget", "size=0.6MB", *FEW]
FINETUNE = ["finetune", "pruned", "--out", "tuned", "--resume", "--epochs", "1", "--held-out", "8", "--train-images", "8"]
FINETUNE += ["--batch-size", "8", "--limit", "8", "--json"]
SEARCH = (
    "search --out made --resume --space little.yaml --budget size=0.6MB --calib-images 6 --held-out 12 --rounds 2 --max-evals 8 "
    "--recipe minmax --json"
)
CLOUD = 200  # points of a run's cloud that are kept


def command(*line: str) -> None:
    """Run the command line in this process; raise where it fails."""
    from pmq import cli

    before, sys.argv = sys.argv, ["pmq", *line]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main()
    except SystemExit as exit_:
        if exit_.code:
            raise RuntimeError(f"pmq {' '.join(line)}: exit status {exit_.code}") from None
    finally:
        sys.argv = before


def make_seeds(folder: Path, run: Path | None = None) -> None:
    """Write one of each into a folder; ``run`` is a finished search, made here without it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _inside(folder), shallow_searches():
        (folder / "space.yaml").write_text((Path(__file__).parents[2] / "search_spaces" / "default.yaml").read_text())
        (folder / "two.yaml").write_text(SPACE)
        (folder / "little.yaml").write_text(LITTLE)
        if run is None:
            few = ["--calib-images", "6", "--held-out", "12", "--rounds", "1", "--max-evals", "8"]
            command("search", "--out", "run", *few, "--json")
        else:
            shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("plots", "deploy", "report.html"))
        _trim(folder / "run")
        for suffix in (".json", ".safetensors"):  # an allocation by itself, out of its run
            shutil.copyfile((folder / "run" / "allocations" / "chosen").with_suffix(suffix), folder / f"allocation{suffix}")
        _latency_table(folder / "latency.json")
        command("search", "--out", "timed", "--space", "two.yaml", "--latency", "latency.json", "--budget", "latency=2ms", *FEW)
        command(*JOURNALED)
        command(*SEARCH.split())
        command(
            "prune",
            "--importance",
            "magnitude",
            "--no-recover",
            "--calib-images",
            "8",
            "--limit",
            "8",
            "--out",
            "pruned",
            "--json",
        )
        command(*FINETUNE)
        command(
            "deploy",
            "w8a8",
            "--recipe",
            "minmax",
            "--calib-images",
            "4",
            "--limit",
            "8",
            "--rounds",
            "3",
            "--out",
            "deploy",
            "--json",
        )
        for made in ("run", "made", "timed", "journaled", "pruned", "tuned"):
            (folder / made / "report.html").unlink(missing_ok=True)
            shutil.rmtree(folder / made / "plots", ignore_errors=True)
        shutil.copytree(folder / "deploy", folder / "run" / "deploy" / "onnxruntime", ignore=shutil.ignore_patterns("*.onnx"))
        (folder / "deploy").joinpath("vit_fashion_mnist-onnxruntime.onnx").rename(folder / "model.onnx")
        _checkpoints(folder)
        _images(folder)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _trim(run: Path) -> None:
    """Keep some of the cloud of points, which else is most of the run and says nothing more."""
    lines = (run / "points.csv").read_text().splitlines(keepends=True)
    (run / "points.csv").write_text("".join(lines[: CLOUD + 1]))
    agree(run, run / "points.csv")


def agree(run: Path, path: Path) -> None:
    """Let a run's manifest say that a file, which was changed, is as the run wrote it."""
    manifest = json.loads((run / "manifest.json").read_text())
    name = str(path.relative_to(run))
    if name in manifest.get("files", {}):
        manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (run / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _latency_table(path: Path) -> None:
    """A table as measured on this machine, of made-up milliseconds, so that budgets in milliseconds mean the same each time."""
    from pmq.cost import LatencyTable
    from pmq.cost.latency import layer_key
    from pmq.models import model_label
    from pmq.optimize import Space, read_space
    from pmq.pipeline.subject import Subject
    from pmq.runtimes import TARGETS
    from pmq.runtimes.profile import fingerprint

    subject = Subject.of(None, "cpu")
    modes = Space(read_space(str(path.with_name("two.yaml"))), subject.inventory).modes
    layers = {
        layer: {layer_key(weight, source): 0.05 + 0.001 * i + (0.05 if weight.is_fp32 else 0) for weight, source in pairs}
        for i, (layer, pairs) in enumerate(modes.items())
    }
    here = fingerprint(TARGETS["onnxruntime"])
    said = {"target": "onnxruntime", "model": model_label(subject.module), "batch_size": 1, "threads": 1, "fingerprint": here}
    LatencyTable(**said, layers=layers, rest_ms=0.1, margin=0.02, spread=0.01).save(path)


def _checkpoints(folder: Path) -> None:
    import torch

    from pmq.models import create_model
    from pmq.models.embedded import ASSETS

    shutil.copyfile(ASSETS / "model.safetensors", folder / "model.safetensors")
    torch.save(create_model(None).state_dict(), folder / "model.pth")


def _images(folder: Path) -> None:
    """A few of the embedded images as files, ten classes of them; and one by itself."""
    import numpy as np
    from PIL import Image

    from pmq.models.embedded import ASSETS

    with np.load(ASSETS / "test.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    for label in range(10):
        below = folder / "images" / f"class{label}"
        below.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(labels == label)[:3]):
            Image.fromarray(images[index]).save(below / f"{number}.{('png', 'jpg', 'bmp')[number]}")
    Image.fromarray(images[0]).save(folder / "image.png")
    files = sorted((folder / "images").rglob("*.*"))
    rows = [f"{file.relative_to(folder).as_posix()},{file.parent.name}" for file in files]
    (folder / "images.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    (folder / "classes.json").write_text(json.dumps({f"class{label}": label for label in range(10)}))
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for number, file in enumerate(files):
            for end, content in ((file.suffix, file.read_bytes()), (".cls", file.parent.name.removeprefix("class").encode())):
                member = tarfile.TarInfo(f"{number:03}{end}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    make_seeds(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute() if len(sys.argv) > 2 else None)
