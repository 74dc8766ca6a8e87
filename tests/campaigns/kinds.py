"""What a case of the fuzz campaign damages, and which commands then read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.campaigns.binaries import archive, checkpoint, image, onnx_model
from tests.campaigns.formats import Mutator, csv_cells, file_of, json_lines, json_values, safetensors_header, yaml_values
from tests.campaigns.hostile import ARGUMENTS, NUMBERS
from tests.campaigns.seeds import FINETUNE, JOURNALED, agree
from tests.campaigns.wrong import wrong_tensors, wrong_values

#: what every case may write
OUT = ("out", "out/*", "out.*")
FEW = "--limit 8 --calib-images 4 --recipe minmax --json"


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    Attributes:
        name: as the table of counts calls it.
        share: cases of a hundred.
        files: seeds that are copied into the case's folder.
        damaged: patterns of files, one of which is damaged.
        how: what damages it.
        lines: command lines, one of which is run.
        writes: patterns of what that may write or change, besides what is called ``out``.
    """

    name: str
    share: int
    files: tuple[str, ...]
    damaged: tuple[str, ...]
    how: Mutator
    lines: tuple[list[str], ...]
    writes: tuple[str, ...] = ()
    last: Callable[[Random], list[str]] = field(default=lambda rng: [])

    def lay_out(self, seeds: Path, folder: Path) -> None:
        """Copy what the case needs."""
        for name in self.files:
            source = seeds / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / source.name)

    def damage(self, rng: Random, folder: Path) -> str:
        """Damage one of the files; say what was done."""
        found = sorted(path for pattern in self.damaged for path in folder.glob(pattern) if path.is_file())
        return self.how(rng, rng.choice(found)) if found else "nothing"


def _budget(rng: Random) -> list[str]:
    number = rng.choice([*map(repr, NUMBERS), "9" * 5000, "4", "4.5", "٤", "4e0", "+4", "0x4", "4_0", "04", " 4 ", ""])
    terms = [f"{number}bit", f"w{number}a{number}", f"{number}x", f"size={number}MB", f"bitops={number}G", f"latency={number}ms"]
    terms += [f"size={number}", f"SIZE = {number} kb", "size=1e3MB", "4bit", "bitops=0.4G", "w4a8", "0.2x", rng.choice(ARGUMENTS)]
    text = ",".join(rng.choice(terms) for _ in range(rng.choice([1, 1, 1, 2, 3, 30])))
    return [text if rng.random() < 0.8 else rng.choice([text[: len(text) // 2], text.upper(), f" {text} ", f"{text},", text * 2])]


def _lines(*texts: str) -> tuple[list[str], ...]:
    return tuple(text.split() for text in texts)


#: how much of a run is read
SOLVE = "search run --resume --budget 5bit --json"
PAGE = "report run --no-figures --out out.html --json"
PLOT = "plot run --out out --json"  # takes longest: rarely
EXPORT = "export run --out out.json --json"
ALLOCATION = ("allocation.json", "allocation.safetensors")
EVALUATE = f"evaluate allocation.json {FEW}"
EVALUATE_PRUNED = f"evaluate fp32 pruned {FEW}"
CHOSEN = "allocations/chosen"
PRUNED_PARTS = ("pruned/manifest.json", f"pruned/{CHOSEN}.json", f"pruned/{CHOSEN}.json", f"pruned/{CHOSEN}.safetensors")
OF_RUN = ("run/allocations/*", "run/report.html")


def _any_part(rng: Random, path: Path) -> str:
    """By what the file is; mostly in a run that says it wrote the file so, or does not tell."""
    own = {".json": json_values, ".csv": csv_cells, ".safetensors": safetensors_header, ".jsonl": json_lines}
    said = file_of(own[path.suffix])(rng, path)
    run = next((p for p in path.parents if (p / "manifest.json").is_file()), None)
    how = rng.choice(["as it is", "agreed", "agreed", "untold"])
    if run is None or path.name == "manifest.json" or not path.is_file() or how == "as it is":
        return said
    if how == "agreed":
        agree(run, path)
    else:
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "files"}))
    return f"{said} ({how})"


def _wrong_plan(rng: Random, path: Path) -> str:
    """In a run that says it wrote the file so: else nothing but that would be told."""
    said = wrong_values(rng, path)
    agree(path.parents[1], path)
    return said


KINDS = (
    Kind(
        *("allocation", 7, ALLOCATION, ("allocation.json",), file_of(json_values)),
        _lines("export allocation.json --out out.json --json", "export allocation.json --out out.json --json", EVALUATE),
    ),
    Kind(
        "values",
        7,
        ALLOCATION,
        ("allocation.json",),
        wrong_values,
        _lines(EVALUATE, EVALUATE, EVALUATE, f"{EVALUATE} --recalibrate"),
    ),
    Kind("tensors", 5, ALLOCATION, ("allocation.json",), wrong_tensors, _lines(EVALUATE)),
    Kind(
        *("space", 8, ("space.yaml",), ("space.yaml",), file_of(yaml_values)),
        _lines(f"evaluate w4a4 --space space.yaml {FEW}", f"evaluate fp32 --space space.yaml {FEW}"),
    ),
    Kind("budget", 7, ("run",), (), json_values, _lines("search run --resume --json --budget"), OF_RUN, _budget),
    Kind(
        *("latency", 6, ("timed",), ("timed/latency.json",), file_of(json_values)),
        _lines("search timed --resume --budget latency=2ms --json", "report timed --no-figures --out out.html --json"),
        ("timed/allocations/*",),
    ),
    Kind(
        *("pruned", 7, ("pruned",), PRUNED_PARTS, _any_part),
        _lines(
            EVALUATE_PRUNED,
            EVALUATE_PRUNED,
            "export pruned --out out.json --json",
            "report pruned --no-figures --out out.html --json",
        ),
    ),
    Kind("plan", 4, ("pruned",), (f"pruned/{CHOSEN}.json",), _wrong_plan, _lines(EVALUATE_PRUNED, f"evaluate pruned {FEW}")),
    Kind(
        "finetuned",
        3,
        ("pruned", "tuned"),
        ("tuned/state.safetensors", "tuned/manifest.json"),
        _any_part,
        (FINETUNE,),
        ("tuned/*",),
    ),
    Kind("manifest", 5, ("run",), ("run/manifest.json",), _any_part, _lines(SOLVE, PAGE, EXPORT, f"evaluate run {FEW}"), OF_RUN),
    Kind("tables", 6, ("run",), ("run/*.csv",), _any_part, _lines(*[SOLVE, PAGE] * 6, PLOT), OF_RUN),
    Kind(
        *("parts", 5, ("run",), ("run/inventory.json", "run/decisions.json", "run/deploy/*/*.json"), _any_part),
        _lines(*[SOLVE, PAGE] * 6, PLOT),
        OF_RUN,
    ),
    Kind("journal", 3, ("journaled", "little.yaml"), ("journaled/journal.jsonl",), _any_part, (JOURNALED,), ("journaled/*",)),
    Kind(
        *("checkpoint", 3, ("model.safetensors",), ("model.safetensors",), file_of(checkpoint)),
        _lines(f"evaluate fp32 --checkpoint model.safetensors {FEW}"),
    ),
    Kind(
        "torch file",
        3,
        ("model.pth",),
        ("model.pth",),
        file_of(checkpoint),
        _lines(f"evaluate fp32 --checkpoint model.pth {FEW}"),
    ),
    Kind("image", 5, ("model.onnx", "image.png"), ("image.png",), file_of(image), _lines("run model.onnx image.png --json")),
    Kind("folder", 5, ("images",), ("images/*/*",), file_of(image), _lines(f"evaluate fp32 --data images {FEW}")),
    Kind(
        *("table of images", 2, ("images", "images.csv"), ("images.csv",), file_of(csv_cells)),
        _lines(f"evaluate fp32 --data images.csv {FEW}", f"evaluate w8a8 --data images.csv {FEW}"),
    ),
    Kind(
        *("class map", 1, ("images", "classes.json"), ("classes.json",), file_of(json_values)),
        _lines(f"evaluate fp32 --data images --class-map classes.json {FEW}"),
    ),
    Kind("shard", 2, ("shard.tar",), ("shard.tar",), file_of(archive), _lines(f"evaluate fp32 --data shard.tar {FEW}")),
    Kind(
        "model", 6, ("model.onnx", "image.png"), ("model.onnx",), file_of(onnx_model), _lines("run model.onnx image.png --json")
    ),
)
