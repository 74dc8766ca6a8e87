"""Paths that users name."""

from __future__ import annotations

import re
from pathlib import Path

from pmq.core.errors import PmqError


def named_path(name: Path | str, what: str) -> Path:
    """Return the path of a name; an empty name, which ``pathlib`` takes for the current folder, is refused.

    Raises:
        PmqError: the name is empty.
    """
    if name == "":
        raise PmqError(f"the name of the {what} is empty; give one, or None for the default")
    return Path(name)


def file_name(model: str) -> str:
    """Return the name of a model's files and folders; the model's own name may be an address.

    >>> file_name("deit_tiny_patch16_224"), file_name("hf:google/vit-base-patch16-224"), file_name("models.mine:make")
    ('deit_tiny_patch16_224', 'google-vit-base-patch16-224', 'models.mine-make')
    """
    return re.sub(r"[^\w.-]+", "-", model.removeprefix("hf:")).strip("-.") or "model"


def architecture(model: str) -> str:
    """Return a model's name for files without the tag of its weights, which timm appends after a point.

    >>> architecture("deit_tiny_patch16_224.fb_in1k"), architecture("hf:facebook/dinov2-small")
    ('deit_tiny_patch16_224', 'facebook-dinov2-small')
    """
    return file_name(model if ":" in model else model.split(".")[0])


def spaces_folder() -> Path:
    """Return the folder of the built-in search spaces: next to the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"
