"""``pmq run``: classify images with a deployed file and its runtime alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli import options as o
from pmq.cli.output import print_json


def run(
    file: Annotated[Path, typer.Argument(help="what pmq deploy wrote")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="files")],
    top: Annotated[int, typer.Option(help="classes to name", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="threads of the runtime", min=1)] = 1,
    json: o.Json = False,
) -> None:
    """Name the likeliest classes of images, with nothing but the file, its runtime and onnx."""
    import numpy as np

    from pmq.core import PmqError
    from pmq.deploy import target_of
    from pmq.deploy.labels import load_image, read_description

    if not file.is_file():
        raise PmqError(f"model file {str(file)!r} does not exist; pmq deploy writes one")
    target = target_of(file)
    target.require(running=True)
    preprocess, classes = read_description(target.metadata(file), file)
    if preprocess["num_classes"] == 0:
        raise PmqError(f"{str(file)!r} gives features, no classes; run it with {target.runtime} itself")
    session = target.session(file, threads)
    found = []
    for path in images:
        x = load_image(path, preprocess)
        start = time.perf_counter()
        logits = session(x)[0].astype(float)
        spent = 1e3 * (time.perf_counter() - start)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares)[:top]
        names = [(classes[i] if i < len(classes) else str(i), float(shares[i])) for i in best]
        found.append({"image": str(path), "latency_ms": spent, "classes": [{"name": n, "probability": p} for n, p in names]})
        if not json:
            print(f"{path}  ({spent:.2f} ms)")
            for name, share in names:
                print(f"  {100 * share:5.1f} %  {name}")
    if json:
        print_json({"results": found})
