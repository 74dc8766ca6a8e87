"""Base class and registry of the formats of other tools."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pmq.core.errors import PmqError
from pmq.core.registry import Registry
from pmq.exports.fit import Fitted, Holds

if TYPE_CHECKING:
    from pmq.exports.tensor import ExportModel, QuantizedTensor


class Format(ABC):
    """A format of another tool; a new one needs a subclass with ``@register`` and a page under ``docs/going-to/``."""

    name: ClassVar[str]
    #: the tool that reads the files
    tool: ClassVar[str]
    #: suffix of the file that the user names, and those of the files beside it
    suffix: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    #: packages needed to write files, and the pip extra that has them
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    #: whether the file is a folder
    is_folder: ClassVar[bool] = False
    #: whether the tool loads the files into the user's own module, rather than into a graph that is written beside them
    reads_module: ClassVar[bool] = False

    def require(self) -> None:
        """Raise PmqError if a package needed to write files cannot be imported."""
        for package in self.packages:
            try:
                import_module(package)
            except ImportError as error:
                raise PmqError(
                    f"format {self.name!r} needs {package!r}, which cannot be imported ({error}); pip install 'pmq[{self.extra}]'"
                ) from None

    @abstractmethod
    def holds(self, model: ExportModel, tensor: QuantizedTensor) -> Holds | str:
        """Return the grids that the format can hold for a tensor, or the reason for which it holds none."""

    @abstractmethod
    def write(self, model: ExportModel, fitted: Fitted, path: Path) -> list[Path]:
        """Write the files; return them, ``path`` first."""

    def holds_all(self, model: ExportModel) -> Mapping[str, Holds | str]:
        """Return :meth:`holds` of every quantized tensor, by name."""
        return {name: self.holds(model, tensor) for name, tensor in model.tensors.items()}


FORMATS: Registry[Format] = Registry("format")


def register(cls: type[Format]) -> type[Format]:
    """Register a format under its name."""
    FORMATS.add(cls.name, cls())
    return cls
