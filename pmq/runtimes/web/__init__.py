"""Web pages that classify pictures with a deployed file, computed in the browser by onnxruntime-web."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import is_file, quoted, write_bytes, write_text
from pmq.core.task import AUTO
from pmq.runtimes.answers import DECISIONS
from pmq.runtimes.labels import read_description
from pmq.runtimes.registry import target_of
from pmq.runtimes.web.npm import FILES

#: files of a page besides the model and the runtime
PARTS = ("resample.js", "demo.js", "demo.css")
PAGE, MODEL = "index.html", "model.onnx"
#: the target whose files onnxruntime-web runs
TARGET = "onnxruntime"
#: tasks that a page can show
SHOWN = ("classification", "multilabel", "binary", "regression")


def write_demo(file: Path, folder: Path, runtime: Path) -> Path:
    """Write a page that classifies pictures with a file, and everything it needs, to a folder.

    Args:
        file: file of the target ``onnxruntime`` that states how pictures are prepared.
        folder: folder to write to.
        runtime: folder that contains the files of onnxruntime-web, see :func:`pmq.runtimes.web.npm.web_runtime`.

    Returns:
        The page. Browsers open it from a server only, as they load WebAssembly from nowhere else.

    Raises:
        PmqError: the file is one of another runtime, takes no pictures, or its outputs have no meaning for single pictures, or
            the folder has a page of somebody else.
    """
    target = target_of(file)
    if target.name != TARGET:
        raise PmqError(f"{quoted(file)} is a file for {target.name}; a page runs those of `target={TARGET}`: deploy for that")
    description = read_description(target.metadata(file), file)
    preprocess, task = description.preprocess, description.preprocess.meaning
    if task not in SHOWN:
        raise PmqError(f"{quoted(file)} returns {task}, which a page cannot show; it shows {', '.join(SHOWN)}")
    if preprocess.input_size[0] not in (1, 3):
        raise PmqError(f"{quoted(file)} takes images of {preprocess.input_size[0]} channels; a page reads pictures, of 1 or 3")
    names = description.classes
    if task == "binary" and len(names) != len(DECISIONS):
        names = DECISIONS
    if is_file(folder / PAGE) and not is_file(folder / PARTS[0]):
        raise PmqError(f"{quoted(folder / PAGE)} exists and is no page of pmq demo; choose another folder")
    size = file.stat().st_size
    facts = preprocess.model_dump() | {"task": task, "classes": names, "name": file.stem, "bytes": size}
    assert facts["task"] != AUTO
    write_bytes(folder / MODEL, file.read_bytes())
    for name in FILES:
        write_bytes(folder / name, (runtime / name).read_bytes())
    parts = files("pmq.runtimes.web") / "parts"
    for part in PARTS:
        write_text(folder / part, (parts / part).read_text("utf-8"))
    # Escaped, because "</script>" in a class name would end its script element.
    data = json.dumps(facts, allow_nan=False).replace("<", "\\u003c")
    return write_text(folder / PAGE, (parts / PAGE).read_text("utf-8").replace("__FACTS__", data))
