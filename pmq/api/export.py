"""The verb ``export``."""

from __future__ import annotations

import json
from pathlib import Path

from pmq.core import Allocation, PmqError
from pmq.core.files import quoted, write_text
from pmq.core.progress import message
from pmq.core.run_files import check_output
from pmq.core.spec import read_what

SCHEMA = ".schema.json"


def export(what: Path | str, file: Path | str) -> tuple[Path, Path]:
    """Validate an allocation (a file, or a run's chosen one) and write it with its JSON Schema.

    Args:
        what: allocation file or run directory.
        file: JSON file to write; the schema goes beside it as ``<name>.schema.json``.

    Returns:
        Paths of allocation and schema.

    Raises:
        PmqError: ``what`` is no valid allocation, or ``file`` cannot be written, or is something else that must not be lost.

    Example:
        >>> import tempfile, torch, pmq
        >>> folder = tempfile.mkdtemp()
        >>> images, quick = torch.randn(12, 1, 28, 28), pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=f"{folder}/run", options=quick).run
        >>> [path.name for path in pmq.export(run, f"{folder}/allocation.json")]
        ['allocation.json', 'allocation.schema.json']
    """
    path = check_output(Path(file), ".json", [what], (".safetensors", SCHEMA))
    allocation = read_what(str(what))
    if isinstance(allocation, str):
        raise PmqError(f"{str(what)!r} is a shorthand; export takes an allocation file or a run directory")
    if allocation.tensors_sha256 is not None and allocation.tensors is None:
        message(f"the tensors of {quoted(what)} are not beside it: the exported file needs `recalibrate`")
    allocation.save(path)
    return path, write_text(path.with_suffix(SCHEMA), json.dumps(Allocation.json_schema(), indent=1) + "\n")
