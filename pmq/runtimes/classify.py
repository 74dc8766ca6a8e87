"""Classify picture files with a deployed file, its runtime, and nothing else. No torch here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pmq.core.array import ARRAY, PICTURES, ends_of
from pmq.core.errors import PmqError
from pmq.core.files import is_dir, quoted
from pmq.core.progress import message
from pmq.core.task import AUTO
from pmq.runtimes.answers import answer
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import read_description


class Classifier:
    """A deployed file, ready to run.

    Args:
        file: what ``pmq deploy`` wrote.
        threads: of its runtime.

    Raises:
        PmqError: it is none, is damaged, or gives features.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        from pmq.runtimes import target_of

        target = target_of(file)
        target.require(running=True)
        self._description = read_description(target.metadata(file), file)
        self.task = self._description.preprocess.meaning
        if self.task in ("features", "dense"):
            what = "features" if self.task == "features" else "classes of positions"
            raise PmqError(f"{quoted(file)} gives {what}, no classes; run it with {target.runtime} itself")
        if self.task == "binary" and self._description.preprocess.task == AUTO:
            message(f"{quoted(file)} does not say what its one output means: it is taken as the logit of two classes")
        self._session = target.session(file, threads)
        self._description.check(self._session, file)
        self.channels = self._description.preprocess.input_size[0]
        self.answers_are, self.figure = ("values", "value") if self.task == "regression" else ("classes", "probability")

    def answers(self, path: Path, top: int) -> tuple[list[dict[str, Any]], float]:
        """What the file says of a picture: the ``top`` first answers, with their names and numbers; and its milliseconds."""
        x = load_image(path, self._description.preprocess)
        start = time.perf_counter()
        outputs = self._session(x)
        spent = 1e3 * (time.perf_counter() - start)
        found = answer(outputs, self._description, top)
        return [{"name": name, "index": index, self.figure: figure} for name, index, figure in found], spent


def images_of(paths: Sequence[Path], channels: int) -> list[Path]:
    """Files as they are given, and of folders all images of so many channels below them, in order.

    Raises:
        PmqError: a folder has none.
    """
    ends = ends_of(channels)
    found: list[Path] = []
    for path in paths:
        if not is_dir(path):
            found.append(path)
            continue
        below = sorted(file for file in path.rglob("*") if file.suffix.lower() in ends and file.is_file())
        if not below:
            kind = "pictures" if channels in PICTURES else f"{ARRAY} files"
            raise PmqError(f"folder {quoted(path)} has no {kind}; give files, or a folder of such")
        found += below
    return found
