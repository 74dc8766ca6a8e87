"""What the chaos campaign disturbs: every command, on the embedded default with small settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.seeds import LITTLE, SEARCH

#: where the search's journal is
JOURNAL = Path("made") / "journal.jsonl"


@dataclass(frozen=True)
class Command:
    """A command that is disturbed.

    Attributes:
        name: as the table calls it.
        text: its line, the same for the second time.
        files: seeds that it reads.
        exact: files that are the same to the byte whenever it runs.
        share: how often it is drawn; long ones less.
        half: whether it goes on with half of a journal that an undisturbed ``search`` wrote.
    """

    name: str
    text: str
    files: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    share: int = 3
    half: bool = False

    @property
    def line(self) -> list[str]:
        """Its words."""
        return self.text.split()

    def lay_out(self, seeds: Path, folder: Path) -> None:
        """Copy what it reads into a folder, which it then runs in."""
        (folder / "little.yaml").write_text(LITTLE)
        for name in self.files:
            source, target = seeds / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)
        if self.half:
            _halve(folder / "made")


def _halve(run: Path) -> None:
    """Leave of a finished run what a kill would have left of it halfway."""
    lines = (run / JOURNAL.name).read_text().splitlines(keepends=True)
    settings = json.loads((run / "manifest.json").read_text())["settings"]
    shutil.rmtree(run)
    run.mkdir()
    (run / JOURNAL.name).write_text("".join(lines[: len(lines) // 2]))
    (run / "manifest.json").write_text(json.dumps({"settings": settings}, indent=1) + "\n")


CHOSEN = ("made/allocations/chosen.json", "made/allocations/chosen.safetensors")
TABLES = ("made/sensitivity.csv", "made/front.csv", "made/points.csv", *CHOSEN)

COMMANDS = (
    Command("search", SEARCH, exact=TABLES, share=6),
    Command("search best", SEARCH.replace("minmax", "best"), exact=TABLES, share=1),
    Command("search --resume", SEARCH, ("made",), TABLES, share=4, half=True),
    Command("search RUN", "search run --resume --budget 5bit --json", ("run",), ("run/allocations/5bit.json",), share=4),
    Command(
        "sensitivity",
        "sensitivity --space little.yaml --metric sqnr --calib-images 4 --out made.csv --json",
        exact=("made.csv",),
    ),
    Command(
        "rank",
        "rank --metric sqnr --budget 6bit --one-budget 6bit --count 5 --space little.yaml --recipe minmax --calib-images 4 "
        "--probe-images 4 --held-out 8 --truth-images 8 --out made --resume --json",
        exact=("made/allocations/sqnr-6bit.json",),
        share=2,
    ),
    Command("evaluate", "evaluate w8a8,fp32 --recipe minmax --limit 64 --results-file made.csv --json"),
    Command("patches", "patches run --kind static --out made.json --json", ("run",), ("made.json", "made.safetensors"), share=1),
    Command("prune", "prune --ratio 0.25 --calib-images 16 --limit 32 --out made --json", exact=CHOSEN),
    Command(
        "finetune",
        "finetune pruned --epochs 3 --train-images 64 --held-out 16 --limit 32 --out made --resume --json",
        ("pruned",),
        CHOSEN,
        share=4,
    ),
    Command("export", "export run --out made.json --json", ("run",), ("made.json", "made.safetensors", "made.schema.json")),
    Command("plot", "plot run --out made --json", ("run",), share=2),
    Command("report", "report run --out made.html --no-figures --json", ("run",)),
    Command("profile", "profile --rounds 3 --out made.json --json", share=1),
    Command("deploy", "deploy w8a8 --limit 8 --calib-images 4 --recipe minmax --rounds 3 --out made --json", share=1),
    Command("run", "run model.onnx image.png --json", ("model.onnx", "image.png"), share=1),
)
