"""The files of onnxruntime-web, from npm or from a folder; they are kept, so that later pages need no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import quoted, write_bytes
from pmq.core.progress import message

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
#: what a page loads: the interface, and the WebAssembly with its loader
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
#: seconds after which npm is stopped
LIMIT = 300


def web_runtime(folder: Path | None = None) -> Path:
    """Return a folder that contains the files of onnxruntime-web that a page loads.

    Args:
        folder: folder that contains them, such as ``node_modules/onnxruntime-web/dist``; by default they are taken from the
            cache, into which ``npm pack`` fetches them once.

    Raises:
        PmqError: the folder lacks a file, or npm is not installed or fails.
    """
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmq" / f"{PACKAGE}-{VERSION}"
    source = kept if folder is None else folder
    missing = [name for name in FILES if not (source / name).is_file()]
    if not missing:
        return source
    if folder is not None:
        raise PmqError(f"folder {quoted(folder)} has no {', '.join(missing)}; pass the folder dist of npm's {PACKAGE}")
    with tempfile.TemporaryDirectory() as temporary:
        fetched = _fetched(Path(temporary))
        for name in FILES:
            write_bytes(kept / name, (fetched / name).read_bytes())
    return kept


def _fetched(folder: Path) -> Path:
    """Fetch the package by npm and return the folder of its files."""
    npm, advice = shutil.which("npm"), f"or pass the folder dist of npm's {PACKAGE} as `web_runtime`"
    if npm is None:
        raise PmqError(f"npm, which fetches {PACKAGE}, is not installed; install Node, {advice}")
    message(f"fetching {PACKAGE} {VERSION} by npm, once")
    line = [npm, "pack", "--silent", "--pack-destination", str(folder), f"{PACKAGE}@{VERSION}"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise PmqError(f"npm did not fetch {PACKAGE} within {LIMIT} s; try again, {advice}") from None
    if done.returncode:
        raise PmqError(f"npm cannot fetch {PACKAGE}: {' '.join(done.stderr.split()) or done.returncode}; try again, {advice}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        for name in FILES:
            content = packed.extractfile(f"package/dist/{name}")
            assert content is not None
            (folder / name).write_bytes(content.read())
    return folder
