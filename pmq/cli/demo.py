"""``pmq demo``: a web page that classifies pictures with a deployed file."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pmq.cli.output import say


def demo(
    file: Annotated[Path, typer.Argument(help="Model file written by pmq deploy for onnxruntime")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the page to, for a server of your own (default: serve it from here)")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine that serves the page", min=0, max=65535)] = 8000,
    web_runtime: Annotated[
        Path | None,
        typer.Option("--web-runtime", help="Folder dist of npm's onnxruntime-web (default: fetched by npm once and kept)"),
    ] = None,
) -> None:
    """Serve a web page that classifies dropped pictures with a deployed file, computed in the browser."""
    from pmq.api import demo as write
    from pmq.core.errors import Interrupted
    from pmq.runtimes.web.server import HOST, server_of

    if out is not None:
        page = write(file, out, web_runtime=web_runtime)
        say(f"page: {page}", f"next: python -m http.server --directory {shlex.quote(str(out))}")
        return
    with tempfile.TemporaryDirectory() as folder:
        write(file, folder, web_runtime=web_runtime)
        with server_of(Path(folder), port) as server:
            say(f"page: http://{HOST}:{server.server_address[1]}/ (Ctrl-C stops it)")
            try:
                server.serve_forever()
            except Interrupted:
                return
