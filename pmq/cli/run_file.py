"""``pmq run``: classify images with a deployed file and its runtime alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.output import number, print_json, say


def run(
    file: Annotated[Path, typer.Argument(help="what pmq deploy wrote")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="files, or folders of such")],
    top: Annotated[int, typer.Option(help="classes to name", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="threads of the runtime", min=1, max=1024)] = 1,
    compare: Annotated[
        Path | None, typer.Option(help="another file, such as fp32's: on how many images both decide alike")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write the answers as CSV, a row for each image")] = None,
    json: o.Json = False,
) -> None:
    """Name the likeliest classes of images, with nothing but the file, its runtime and onnx."""
    from pmq.core import PmqError
    from pmq.core.run_files import check_output
    from pmq.runtimes.classify import Classifier, images_of

    if out is not None:
        check_output(out, ".csv", [file, compare])
    classifier = Classifier(file, threads)
    paths = images_of(images, classifier.channels)
    other = None if compare is None else Classifier(compare, threads)
    if other is not None and other.task != classifier.task:
        raise PmqError(f"{str(file)!r} and {str(compare)!r} answer other questions: {classifier.task} and {other.task}")
    many = len(paths) > 1
    started, found = time.perf_counter(), list[dict[str, Any]]()
    agreed, computing = 0, 0.0
    for path in paths:
        answers, spent = classifier.answers(path, top)
        computing += spent
        row: dict[str, Any] = {"image": str(path), "latency_ms": spent, classifier.answers_are: answers}
        if other is not None:
            row["other"] = other.answers(path, top)[0]
            row["agrees"] = row["other"][0]["name"] == answers[0]["name"]
            agreed += row["agrees"]
        found.append(row)
        if not json:
            say(f"{path}  ({spent:.2f} ms)")
            for each in answers:
                figure = each[classifier.figure]
                shown = number(figure) if classifier.figure == "value" else f"{100 * figure:5.1f} %"
                say(f"  {shown}  {each['name']}")
            if other is not None and not row["agrees"]:
                say(f"  but {compare}: {row['other'][0]['name']}")
    seconds = time.perf_counter() - started
    summary = {
        "n_images": len(found),
        "images_per_s": len(found) / seconds if seconds else None,
        "latency_ms": computing / len(found),
        "agreement": None if other is None else 100 * agreed / len(found),
    }
    if out is not None:
        _write(out, found, classifier.answers_are, classifier.figure)
    if json:
        print_json({"results": found} | summary)
        return
    if many:
        rate = f"{summary['images_per_s']:.1f} images/s with reading them, {summary['latency_ms']:.2f} ms an image without"
        say(f"{len(found)} images: {rate} ({threads} thread(s))")
    if other is not None:
        say(f"decided as by {compare}: {agreed} of {len(found)} ({number(summary['agreement'])} %)")
    if out is not None:
        say(f"answers: {out}")


def _write(path: Path, found: list[dict[str, Any]], what: str, figure: str) -> None:
    """Write a row for each image: the first answer, its number, and its probability or value."""
    import pandas as pd

    from pmq.core.files import write_csv

    rows = [
        {"image": row["image"], "class": row[what][0]["name"], "index": row[what][0]["index"], figure: row[what][0][figure]}
        | ({"agrees": row["agrees"]} if "agrees" in row else {})
        for row in found
    ]
    write_csv(path, pd.DataFrame(rows))
