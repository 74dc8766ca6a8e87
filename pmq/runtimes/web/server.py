"""A server of one folder, for this machine alone."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pmq.core.errors import PmqError, one_line

HOST = "127.0.0.1"


class _Quiet(SimpleHTTPRequestHandler):
    """Handler that logs nothing and knows the types of WebAssembly and of modules."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".wasm": "application/wasm", ".mjs": "text/javascript"}

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def server_of(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder, which ``serve_forever`` starts; port 0 takes any free one.

    Raises:
        PmqError: the port cannot be used.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Quiet, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise PmqError(f"port {port} cannot be used: {one_line(error)}; pass another `port`") from None
