"""Image files of a folder and the class folder that each lies in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pmq.core.errors import PmqError
from pmq.core.files import is_dir
from pmq.core.progress import message


@dataclass(frozen=True)
class FolderListing:
    """Files below a folder.

    Attributes:
        images: image files in natural order, each with the name of its class folder or None outside any class folder.
        empty: names of folders that contain neither image files nor folders.
        other_files: files that are not images by their names.
    """

    images: list[tuple[str, str | None]]
    empty: list[str]
    other_files: list[str]


def find_images(root: Path, ends: frozenset[str]) -> FolderListing:
    """List the files below a folder, recursively and following symbolic links; ``ends`` are the suffixes of image files.

    Raises:
        PmqError: a folder cannot be read.
    """
    from timm.data.readers.reader_image_folder import natural_key

    listing = FolderListing([], [], [])
    for folder, files, folders in _walk(root, frozenset()):
        images = [path for path in files if path.suffix.lower() in ends]
        listing.images.extend((str(path), None if folder == root else folder.name) for path in images)
        listing.other_files.extend(str(path) for path in files if path.suffix.lower() not in ends)
        if not images and not folders and folder != root:
            listing.empty.append(folder.name)
    listing.images.sort(key=lambda image: (natural_key(image[0]), image[0]))
    return listing


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Yield each folder with its files and folders, skipping links to a folder above, which would never end."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            message(f"skipped, because it links to a folder that contains it: {folder}")
            return
        with os.scandir(folder) as listed:
            entries = sorted((entry.name, _is_folder(entry)) for entry in listed)
    except OSError as error:
        raise PmqError(f"folder {str(folder)!r} cannot be read: {error.strerror}; make it readable or remove it") from None
    folders = [folder / name for name, is_folder in entries if is_folder]
    yield folder, [folder / name for name, is_folder in entries if not is_folder], folders
    for subfolder in folders:
        yield from _walk(subfolder, above | {identity})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return is_dir(Path(entry.path)) if entry.is_symlink() else entry.is_dir()
