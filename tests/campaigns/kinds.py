"""What a case of the fuzz campaign damages, and which commands then read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.campaigns.formats import Mutator, file_of, json_values, yaml_values
from tests.campaigns.hostile import ARGUMENTS, NUMBERS

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


SOLVE = "search run --resume --budget 5bit --json"
PAGE = "report run --no-figures --out out.html --json"
EVALUATE = f"evaluate allocation.json {FEW}"

KINDS = (
    Kind(
        *("allocation", 9, ("allocation.json", "allocation.safetensors"), ("allocation.json",), file_of(json_values)),
        _lines("export allocation.json --out out.json --json", "export allocation.json --out out.json --json", EVALUATE),
    ),
    Kind(
        *("space", 9, ("space.yaml",), ("space.yaml",), file_of(yaml_values)),
        _lines(f"evaluate w4a4 --space space.yaml {FEW}", f"evaluate fp32 --space space.yaml {FEW}"),
    ),
    Kind("budget", 8, ("run",), (), json_values, _lines("search run --resume --json --budget"), ("run/allocations/*",), _budget),
)
