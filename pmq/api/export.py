"""The verb ``export``."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from pmq.core import Allocation
from pmq.core.files import quoted, write_text
from pmq.core.progress import message
from pmq.core.run_files import check_output
from pmq.pipeline.export import JSON, check_file, check_unsupported, export_model, fitted, format_of, read_allocation
from pmq.pipeline.torch_modes import undisturbed

SCHEMA = ".schema.json"


@undisturbed
def export(
    what: Allocation | Path | str,
    file: Path | str,
    format: str = JSON,
    model: nn.Module | str | None = None,
    unsupported: str = "refuse",
) -> tuple[Path, ...]:
    """Validate an allocation (a file, or a run's chosen one) and write it with its JSON Schema, or in another tool's format.

    Args:
        what: allocation, its file, or a run directory.
        file: file to write; others go beside it: the schema as ``<name>.schema.json``, the weights as ``<name>.safetensors``.
        format: ``json``, or a name in :data:`pmq.exports.FORMATS`.
        model: the FP32 model of the allocation, which is left unchanged, or a timm name; ``None`` for the embedded model. The
            format ``json`` does not need it.
        unsupported: what becomes of components that a format cannot express: ``refuse`` raises an error that counts them,
            ``skip`` leaves them in FP32, ``widen`` gives them a grid of more bits where the format has one, and FP32 elsewhere.

    Returns:
        Paths of the files; ``file`` is the first.

    Raises:
        PmqError: ``what`` is no valid allocation, or ``file`` cannot be written, or is something else that must not be lost; or
            the format is unknown, or cannot express the allocation.

    Example:
        >>> import tempfile, torch, pmq
        >>> folder = tempfile.mkdtemp()
        >>> images, quick = torch.randn(12, 1, 28, 28), pmq.SearchOptions(recipe="fast", n_rounds=1)
        >>> run = pmq.search(None, images, "w4a8", space="w4a8", out=f"{folder}/run", options=quick).run
        >>> [path.name for path in pmq.export(run, f"{folder}/allocation.json")]
        ['allocation.json', 'allocation.schema.json']
    """
    form, path = format_of(format), Path(file)
    check_unsupported(unsupported)
    if form is not None:
        check_file(form, path, what)
        form.require()
        allocation = read_allocation(what)
        source = export_model(model, allocation)
        return tuple(form.write(source, fitted(form, source, allocation, unsupported), path))
    check_output(path, ".json", [] if isinstance(what, Allocation) else [what], (".safetensors", SCHEMA))
    allocation = read_allocation(what)
    if allocation.tensors_sha256 is not None and allocation.tensors is None:
        message(f"the tensors of {quoted(str(what))} are not beside it: the exported file needs `recalibrate`")
    allocation.save(path)
    return path, write_text(path.with_suffix(SCHEMA), json.dumps(Allocation.json_schema(), indent=1) + "\n")
