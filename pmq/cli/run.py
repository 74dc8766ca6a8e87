"""``pmq run``: classify images with only a deployed file and its runtime."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pmq.cli import options as o
from pmq.cli.output import number, print_json, say


def run(
    file: Annotated[Path, typer.Argument(help="Model file written by pmq deploy")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of image files")],
    top: Annotated[int, typer.Option(help="Number of classes to print per image", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Number of threads of the runtime", min=1, max=1024)] = 1,
    compare: Annotated[
        Path | None,
        typer.Option(help="Another deployed file, such as the one of fp32, whose decisions are compared on all images"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write, with one row per image")] = None,
    json: o.Json = False,
) -> None:
    """Print the most probable classes of images, using only the deployed file, its runtime and onnx."""
    from pmq.core import PmqError
    from pmq.core.run_files import check_output
    from pmq.runtimes.classify import Classifier, images_of

    if out is not None:
        check_output(out, ".csv", [file, compare])
    classifier = Classifier(file, threads)
    paths = images_of(images, classifier.channels)
    other = None if compare is None else Classifier(compare, threads)
    if other is not None and other.task != classifier.task:
        raise PmqError(f"{str(file)!r} and {str(compare)!r} have different tasks: {classifier.task} and {other.task}")
    started, results = time.perf_counter(), list[dict[str, Any]]()
    agreed, computing = 0, 0.0
    for path in paths:
        answers, latency = classifier.answers(path, top)
        computing += latency
        row: dict[str, Any] = {"image": str(path), "latency_ms": latency, classifier.answers_are: answers}
        if other is not None:
            row["other"] = other.answers(path, top)[0]
            row["agrees"] = row["other"][0]["name"] == answers[0]["name"]
            agreed += row["agrees"]
        results.append(row)
        if not json:
            _print_answers(row, answers, classifier.figure, compare)
    seconds = time.perf_counter() - started
    summary = {
        "n_images": len(results),
        "images_per_s": len(results) / seconds if seconds else None,
        "latency_ms": computing / len(results),
        "agreement": None if other is None else 100 * agreed / len(results),
    }
    if out is not None:
        _write(out, results, classifier.answers_are, classifier.figure)
    if json:
        print_json({"results": results} | summary)
        return
    if len(paths) > 1:
        rate = f"{summary['images_per_s']:.1f} images/s including reading, {summary['latency_ms']:.2f} ms per image excluding it"
        say(f"{len(results)} images: {rate} ({threads} thread(s))")
    if other is not None:
        say(f"same decision as {compare}: {agreed} of {len(results)} ({number(summary['agreement'])} %)")
    if out is not None:
        say(f"answers: {out}")


def _print_answers(row: dict[str, Any], answers: list[dict[str, Any]], figure: str, compare: Path | None) -> None:
    """Print the answers for one image, and the decision of the compared file where it differs."""
    say(f"{row['image']}  ({row['latency_ms']:.2f} ms)")
    for answer in answers:
        shown = number(answer[figure]) if figure == "value" else f"{100 * answer[figure]:5.1f} %"
        say(f"  {shown}  {answer['name']}")
    if not row.get("agrees", True):
        say(f"  but {compare}: {row['other'][0]['name']}")


def _write(path: Path, results: list[dict[str, Any]], answers_key: str, figure: str) -> None:
    """Write a CSV with one row per image: the first answer, its index, and its probability or value."""
    import pandas as pd

    from pmq.core.files import write_csv

    rows = [
        {"image": row["image"], "class": first["name"], "index": first["index"], figure: first[figure]}
        | ({"agrees": row["agrees"]} if "agrees" in row else {})
        for row in results
        for first in [row[answers_key][0]]
    ]
    write_csv(path, pd.DataFrame(rows))
