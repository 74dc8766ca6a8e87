"""Which files of a folder are images, and in which class folder each lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import is_dir
from pmq.core.progress import message


@dataclass(frozen=True)
class Found:
    """What is below a folder.

    Attributes:
        images: files and the names of the folders they lie in, nothing for those that lie in no class folder; in natural order.
        empty: names of folders without anything that could be an image, nor other folders, below them.
        others: files that are no images by their names.
    """

    images: list[tuple[str, str | None]]
    empty: list[str]
    others: list[str]


def find_images(root: Path, ends: frozenset[str]) -> Found:
    """Look through a folder and all below it, symbolic links included, for files with such ends of their names.

    Raises:
        PmqError: a folder cannot be read.
    """
    from timm.data.readers.reader_image_folder import natural_key

    found = Found([], [], [])
    for folder, files, folders in _walk(root, frozenset()):
        images = [path for path in files if path.suffix.lower() in ends]
        found.images.extend((str(path), None if folder == root else folder.name) for path in images)
        found.others.extend(str(path) for path in files if path.suffix.lower() not in ends)
        if not images and not folders and folder != root:
            found.empty.append(folder.name)
    found.images.sort(key=lambda image: (natural_key(image[0]), image[0]))
    return found


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Yield each folder with what it holds; one that links to a folder it lies in is left out, for it would never end."""
    try:
        status = folder.stat()
        own = (status.st_dev, status.st_ino)
        if own in above:
            message(f"left out, as it leads back to where it lies: {folder}")
            return
        with os.scandir(folder) as listed:
            entries = sorted((entry.name, _is_folder(entry)) for entry in listed)
    except OSError as error:
        raise PmqError(f"folder {str(folder)!r} cannot be read: {error.strerror}; make it readable or remove it") from None
    folders = [folder / name for name, is_folder in entries if is_folder]
    yield folder, [folder / name for name, is_folder in entries if not is_folder], folders
    for each in folders:
        yield from _walk(each, above | {own})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return is_dir(Path(entry.path)) if entry.is_symlink() else entry.is_dir()
