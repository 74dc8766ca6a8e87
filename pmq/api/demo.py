"""The verb ``demo``."""

from __future__ import annotations

from pathlib import Path

from pmq.core.paths import named_path
from pmq.runtimes.web import write_demo
from pmq.runtimes.web.npm import web_runtime as fetched_runtime


def demo(file: Path | str, out: Path | str, *, web_runtime: Path | str | None = None) -> Path:
    """Write a web page that classifies pictures with a deployed file, in the browser and without a network.

    Args:
        file: file that ``pmq.deploy`` wrote for the target ``onnxruntime``.
        out: folder to write to; any server of static files can serve it.
        web_runtime: folder ``dist`` of npm's onnxruntime-web; by default the files are fetched by npm once and kept.

    Returns:
        The page, ``index.html``.

    Raises:
        PmqError: the file cannot be shown by a page, or onnxruntime-web cannot be had.
    """
    folder = named_path(out, "folder to write")
    runtime = fetched_runtime(None if web_runtime is None else Path(web_runtime))
    return write_demo(Path(file), folder, runtime)
