"""Classification of picture files with a deployed file and its runtime; this module does not import torch."""

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
    """A deployed file, loaded into its runtime.

    Args:
        file: file written by ``pmq deploy``.
        threads: number of threads of the runtime.

    Raises:
        PmqError: the file was not written by ``pmq deploy``, is damaged, or returns features or classes of positions.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        from pmq.runtimes import target_of

        target = target_of(file)
        target.require(running=True)
        self._description = read_description(target.metadata(file), file)
        self.task = self._description.preprocess.meaning
        if self.task in ("features", "dense"):
            outputs = "features" if self.task == "features" else "classes of positions"
            raise PmqError(f"{quoted(file)} returns {outputs}, not classes of images; run it directly with {target.runtime}")
        if self.task == "binary" and self._description.preprocess.task == AUTO:
            message(f"{quoted(file)} does not state what its single output means: it is treated as the logit of two classes")
        self._session = target.session(file, threads)
        self._description.check(self._session, file)
        self.channels = self._description.preprocess.input_size[0]
        self.answers_are, self.figure = ("values", "value") if self.task == "regression" else ("classes", "probability")

    def answers(self, path: Path, top: int) -> tuple[list[dict[str, Any]], float]:
        """Return the ``top`` first answers for a picture, with names, indices and figures, and the latency in milliseconds."""
        x = load_image(path, self._description.preprocess)
        start = time.perf_counter()
        outputs = self._session(x)
        latency_ms = 1e3 * (time.perf_counter() - start)
        answers = answer(outputs, self._description, top)
        return [{"name": name, "index": index, self.figure: figure} for name, index, figure in answers], latency_ms


def images_of(paths: Sequence[Path], channels: int) -> list[Path]:
    """Return the given files in order, with each folder replaced by all images of that number of channels below it.

    Raises:
        PmqError: a folder has no such images.
    """
    ends = ends_of(channels)
    files: list[Path] = []
    for path in paths:
        if not is_dir(path):
            files.append(path)
            continue
        below = sorted(file for file in path.rglob("*") if file.suffix.lower() in ends and file.is_file())
        if not below:
            kind = "pictures" if channels in PICTURES else f"{ARRAY} files"
            raise PmqError(f"folder {quoted(path)} has no {kind}; pass image files or a folder that contains some")
        files += below
    return files
