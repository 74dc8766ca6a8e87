"""``pmq run``: classify images with a deployed file and its runtime alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import number, print_json, say


def run(
    file: Annotated[Path, typer.Argument(help="what pmq deploy wrote")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="files")],
    top: Annotated[int, typer.Option(help="classes to name", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="threads of the runtime", min=1, max=1024)] = 1,
    json: o.Json = False,
) -> None:
    """Name the likeliest classes of images, with nothing but the file, its runtime and onnx."""
    from pmq.core import PmqError
    from pmq.core.files import quoted
    from pmq.core.progress import message
    from pmq.core.task import AUTO
    from pmq.deploy import target_of
    from pmq.deploy.answers import answer
    from pmq.deploy.images import load_image
    from pmq.deploy.labels import read_description

    target = target_of(file)
    target.require(running=True)
    description = read_description(target.metadata(file), file)
    task = description.preprocess.meaning
    if task == "features":
        raise PmqError(f"{quoted(file)} gives features, no classes; run it with {target.runtime} itself")
    if task == "binary" and description.preprocess.task == AUTO:
        message(f"{quoted(file)} does not say what its one output means: it is taken as the logit of two classes")
    session = target.session(file, threads)
    description.check(session, file)
    found = []
    for path in images:
        x = load_image(path, description.preprocess)
        start = time.perf_counter()
        outputs = session(x)
        spent = 1e3 * (time.perf_counter() - start)
        answers = answer(outputs, description, top)
        what, figure = ("values", "value") if task == "regression" else ("classes", "probability")
        found.append({"image": str(path), "latency_ms": spent, what: [{"name": n, figure: v} for n, v in answers]})
        if not json:
            say(f"{path}  ({spent:.2f} ms)")
            for name, value in answers:
                say(f"  {number(value)}  {name}" if task == "regression" else f"  {100 * value:5.1f} %  {name}")
    if json:
        print_json({"results": found})
