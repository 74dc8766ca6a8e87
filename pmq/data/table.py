"""Images and labels that a table names: a CSV or Parquet file with a column of paths and one of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError, one_line
from pmq.core.files import is_file, quoted
from pmq.core.progress import message
from pmq.data.classes import ClassRule
from pmq.data.folder import ImageFiles, Preprocess
from pmq.data.source import ImageSource
from pmq.data.targets import label_all

#: ends of the names of tables
TABLES = (".csv", ".parquet")
#: what columns of paths and of classes are called, where nobody says
_PATHS, _CLASSES = ("file", "path", "image", "filename", "file_name", "image_path"), ("label", "class", "target", "class_name")


@dataclass(frozen=True)
class TableKeys:
    """Columns of a table: of the images' paths, relative to its own folder, and of their classes."""

    image: str | None = None
    target: str | None = None

    def named(self) -> dict[str, str]:
        """Those that are named, as timm's readers call them."""
        told = {"input_key": self.image, "target_key": self.target}
        return {name: value for name, value in told.items() if value is not None}


#: those that go by the usual names
COLUMNS = TableKeys()


class ImageTable(ImageFiles):
    """Images that a table names, in its order.

    Their labels are told by :func:`pmq.data.targets.label_all`.
    A table without a column of classes has images without labels (-1).

    Raises:
        PmqError: it cannot be read, or has no such column, or no rows.
    """

    def __init__(self, path: Path, info: ModelInfo, preprocess: Preprocess, rule: ClassRule, keys: TableKeys) -> None:
        what, table = f"table {quoted(path)}", _read(path)
        images = _column(table, keys.image, _PATHS, "--input-key", what)
        if images is None:
            raise PmqError(f"{what} has no column of paths: name one of {', '.join(map(str, table.columns))} with --input-key")
        if not len(table):
            raise PmqError(f"{what} has no rows; it needs one for each image")
        target = _column(table, keys.target, _CLASSES, "--target-key", what)
        self.classes = None
        if target is None:
            message(f"{what} has no column of classes: no top-1, only agreement and KL")
            labels = [-1] * len(table)
        else:
            labels, self.classes = label_all([str(value) for value in table[target]], info.num_classes, rule, what)
        super().__init__([str(path.parent / str(name)) for name in table[images]], labels, preprocess)


def _read(path: Path) -> Any:
    import pandas

    if not is_file(path):
        raise PmqError(f"table {quoted(path)} does not exist; give a .csv or .parquet file with a row for each image")
    try:
        return pandas.read_csv(path) if path.suffix.lower() == ".csv" else pandas.read_parquet(path)
    except ImportError:
        raise PmqError(f"reading {quoted(path)} needs 'pyarrow', which is not installed; pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise PmqError(f"table {quoted(path)} cannot be read: {one_line(error)}") from None


def _column(table: Any, asked: str | None, usual: tuple[str, ...], flag: str, what: str) -> str | None:
    if asked is not None and asked not in table.columns:
        raise PmqError(f"{what} has no column {asked!r}; {flag} is one of {', '.join(map(str, table.columns))}")
    return asked or next((name for name in usual if name in table.columns), None)


def table_source(
    path: Path, info: ModelInfo, crop_pct: float | None, workers: int, rule: ClassRule, keys: TableKeys
) -> ImageSource:
    """Open a table of images."""
    table = ImageTable(path, info, Preprocess(info, crop_pct), rule, keys)
    return ImageSource(table, quoted(path), workers, table.classes)
