"""Tables of images and labels: a CSV or Parquet file with a column of paths and one of classes."""

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

#: file name suffixes of tables
TABLES = (".csv", ".parquet")
#: default names of the columns of paths and of classes
_PATHS, _CLASSES = ("file", "path", "image", "filename", "file_name", "image_path"), ("label", "class", "target", "class_name")


@dataclass(frozen=True)
class TableKeys:
    """Column names of a table: the images' paths, relative to the folder of the table, and their classes."""

    image: str | None = None
    target: str | None = None

    def named(self) -> dict[str, str]:
        """Return the given columns under the names of timm's readers."""
        columns = {"input_key": self.image, "target_key": self.target}
        return {name: value for name, value in columns.items() if value is not None}


#: columns with the default names
COLUMNS = TableKeys()


class ImageTable(ImageFiles):
    """Dataset of the images in a table, in its order.

    Their labels are determined by :func:`pmq.data.targets.label_all`, and are unknown (-1) without a column of classes.

    Raises:
        PmqError: the table cannot be read, lacks a column or has no rows.
    """

    def __init__(self, path: Path, info: ModelInfo, preprocess: Preprocess, rule: ClassRule, keys: TableKeys) -> None:
        label, table = f"table {quoted(path)}", _read(path)
        images = _column(table, keys.image, _PATHS, "input_key", label)
        if images is None:
            raise PmqError(f"{label} has no column of paths; pass one of {', '.join(map(str, table.columns))} as `input_key`")
        if not len(table):
            raise PmqError(f"{label} has no rows; it needs one for each image")
        target = _column(table, keys.target, _CLASSES, "target_key", label)
        self.classes = None
        if target is None:
            message(f"{label} has no column of classes: no top-1 accuracy, only agreement and KL")
            labels = [-1] * len(table)
        else:
            labels, self.classes = label_all([str(value) for value in table[target]], info.num_classes, rule, label)
        super().__init__([str(path.parent / str(name)) for name in table[images]], labels, preprocess)


def _read(path: Path) -> Any:
    import pandas

    if not is_file(path):
        raise PmqError(f"table {quoted(path)} does not exist; choose a .csv or .parquet file with a row for each image")
    try:
        return pandas.read_csv(path) if path.suffix.lower() == ".csv" else pandas.read_parquet(path)
    except ImportError:
        raise PmqError(f"reading {quoted(path)} needs 'pyarrow', which is not installed; pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise PmqError(f"table {quoted(path)} cannot be read: {one_line(error)}") from None


def _column(table: Any, name: str | None, defaults: tuple[str, ...], option: str, label: str) -> str | None:
    """Return the column ``name``, by default the first existing of ``defaults``, or None."""
    if name is not None and name not in table.columns:
        raise PmqError(f"{label} has no column {name!r}; pass one of {', '.join(map(str, table.columns))} as `{option}`")
    return name or next((default for default in defaults if default in table.columns), None)


def table_source(
    path: Path, info: ModelInfo, crop_pct: float | None, workers: int, rule: ClassRule, keys: TableKeys
) -> ImageSource:
    """Open a table of images."""
    table = ImageTable(path, info, Preprocess(info, crop_pct), rule, keys)
    return ImageSource(table, quoted(path), workers, table.classes)
