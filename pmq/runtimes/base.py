"""Base class and registry of targets: a target is a runtime with its file format and the choices it can execute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pmq.core.choice import FLOAT, Assignment, Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.registry import Registry
from pmq.cost.latency import layer_key
from pmq.runtimes.session import Probed, Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer
    from pmq.runtimes.operand import DeployOperand


class Target(ABC):
    """A runtime; a new one needs a subclass with ``@register``, a search space of its name and an extra in ``setup.cfg``."""

    name: ClassVar[str]
    #: suffix of the files that the target runs
    suffix: ClassVar[str]
    #: pip extra; package that runs files; further packages needed to write files
    extra: ClassVar[str]
    runtime: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    #: supported modes of a layer, named as by :func:`pmq.cost.latency.layer_key`
    modes: ClassVar[tuple[str, ...]]
    #: the mode with 8-bit integer weights and inputs
    int8: ClassVar[str]
    #: label of the choice of components that are neither a weight nor an input of a layer
    elsewhere: ClassVar[str] = FLOAT.label
    #: allowance for a file's graph, names and descriptions beyond the promised size, in bytes
    graph_bytes: ClassVar[int] = 64_000
    #: the same for each activation whose uneven levels several operators compute, in bytes
    operand_bytes: ClassVar[int] = 0
    #: whether building a model is so slow that layers are profiled one at a time outside the model
    slow: ClassVar[bool] = False
    #: whether files support a dynamic batch size
    open_batch: ClassVar[bool] = True
    #: search space of uniform bits for which the target's own space has no mode, all of which the target executes; or None
    packed_space: ClassVar[str | None] = None
    #: modes in which the last group of a weight row may be shorter than the others
    ragged: ClassVar[tuple[str, ...]] = ()
    #: whether every tensor between operators is quantized
    whole: ClassVar[bool] = False
    #: whether files prepare pixel values
    takes_pixels: ClassVar[bool] = True
    #: whether a layer that runs alone returns values on the grid of its result
    quantizes_results: ClassVar[bool] = False

    @property
    def norms_written_out(self) -> bool:
        """Whether layer norms are exported as the operators that they consist of."""
        return False

    def require(self, running: bool = False) -> None:
        """Raise PmqError if a package needed to write files, or only to run them if ``running``, cannot be imported."""
        for package in (self.runtime, *(() if running else self.packages)):
            try:
                import_module(package)
            except ImportError as error:
                raise PmqError(
                    f"target {self.name!r} needs {package!r}, which cannot be imported ({error}); pip install 'pmq[{self.extra}]'"
                ) from None

    @property
    def installed(self) -> bool:
        """Whether all packages needed to write and run files are installed."""
        try:
            self.require()
        except PmqError:
            return False
        return True

    def check(self, assignment: Assignment, inventory: Inventory) -> None:
        """Raise PmqError if the target cannot execute a component with its choice."""
        for component in inventory:
            choice = assignment[component.name]
            if component.slot == "weight":
                self.check_layer(component.module, choice, assignment[inventory.source_of(component.module)])
                inputs = component.numel // component.shape[0]
                blocks = layer_key(choice, assignment[inventory.source_of(component.module)]) in self.ragged
                if choice.group_size and inputs % choice.group_size and not blocks:
                    groups = f"groups of {choice.group_size}, which {inputs} inputs do not fill"
                    raise PmqError(
                        f"target {self.name!r} cannot run {component.name!r} in {groups}; prune to multiples of the group size"
                    )
            elif component.slot != "input" and not self.executes(choice):
                raise PmqError(
                    f"target {self.name!r} cannot run {component.name!r} at {choice.label} bits; search with `target={self.name}`"
                )

    def executes(self, choice: Choice) -> bool:
        """Return whether the target computes an operand of a product of activations with this choice."""
        return choice.label == self.elsewhere

    def check_layer(self, name: str, weight: Choice, source: Choice) -> None:
        """Raise PmqError if the target cannot execute a layer with these choices of its weight and input."""
        key = layer_key(weight, source)
        if key not in self.modes:
            runs = f"it supports {', '.join(self.modes)}"
            raise PmqError(f"target {self.name!r} cannot run {name!r} as {key!r}; {runs}; search with `target={self.name}`")
        if weight.quantizer == "affine" and not weight.symmetric:
            raise PmqError(f"target {self.name!r} cannot run '{name}.weight', whose grid is not symmetric")

    def versions(self) -> dict[str, str]:
        """Return the versions of the target's packages."""
        packages = (self.runtime, *self.packages)
        return {name: str(getattr(import_module(name), "__version__", None) or version(name)) for name in packages}

    @abstractmethod
    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Export the graph of a model with placeholders for ``layers``; ``image`` is the example input, ``(B, C, H, W)``."""

    @abstractmethod
    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return a skeleton that consists of one layer, whose input has ``shape``."""

    def single_operand(self, operand: DeployOperand, shape: tuple[int, ...]) -> Any:
        """Return a skeleton that consists of one operand, whose values have ``shape``; for targets that quantize operands."""
        raise NotImplementedError(f"target {self.name!r} has no operands")

    @abstractmethod
    def build(self, skeleton: Any, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand] = ()) -> Any:
        """Insert layers and operands into a skeleton and return the runtime's model object.

        Operands are those that :func:`pmq.runtimes.operand.mark_operands` has marked in the skeleton's model.
        """

    @abstractmethod
    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """Write a model with metadata texts; return the files written, with the one to open first."""

    @abstractmethod
    def session(self, model: Any, threads: int = 1) -> Session:
        """Load a file, or a model returned by :meth:`build`, into the runtime."""

    def probed(self, path: Path) -> Probed:
        """Return a file's model with the outputs of its layers, where the runtime returns values from inside a graph."""
        return Probed(path)

    @abstractmethod
    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's :func:`pmq.cost.latency.layer_key` as read from the graph and constants of a file."""

    @abstractmethod
    def metadata(self, path: Path) -> dict[str, str]:
        """Return the metadata texts stored in a file."""


TARGETS: Registry[Target] = Registry("target")


def register(cls: type[Target]) -> type[Target]:
    """Register a target under its name."""
    TARGETS.add(cls.name, cls())
    return cls
