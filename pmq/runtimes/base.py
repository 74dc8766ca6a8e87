"""What a target is: a runtime that computes some choices, with a file format of its own."""

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
from pmq.runtimes.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer


class Target(ABC):
    """A runtime. A new one: a subclass with ``@register``, a search space of its name, an extra in ``setup.cfg``."""

    name: ClassVar[str]
    #: of the files it runs
    suffix: ClassVar[str]
    #: pip's extra; the package that runs files, and those that are needed beside it to write them
    extra: ClassVar[str]
    runtime: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    #: what a layer may do (:func:`pmq.cost.latency.layer_key`)
    modes: ClassVar[tuple[str, ...]]
    #: that of them in which weights and inputs are 8-bit integers
    int8: ClassVar[str]
    #: what is neither a weight nor an input of a layer, as a choice's label
    elsewhere: ClassVar[str] = FLOAT.label
    #: what a file's graph, names and descriptions may take beside the promised bytes
    graph_bytes: ClassVar[int] = 64_000
    #: whether building a model takes so long that layers are profiled alone
    slow: ClassVar[bool] = False
    #: whether a file may leave its batch size open
    open_batch: ClassVar[bool] = True
    #: whether the last group of a row of weights may be shorter than the others
    ragged: ClassVar[bool] = False

    def require(self, running: bool = False) -> None:
        """Raise if a package is missing that writing files needs, or only running them."""
        for package in (self.runtime, *(() if running else self.packages)):
            try:
                import_module(package)
            except ImportError as error:
                raise PmqError(
                    f"target {self.name!r} needs {package!r}, which cannot be imported ({error}); pip install 'pmq[{self.extra}]'"
                ) from None

    @property
    def installed(self) -> bool:
        """Whether it can write files and run them."""
        try:
            self.require()
        except PmqError:
            return False
        return True

    def check(self, assignment: Assignment, inventory: Inventory) -> None:
        """Raise if the target cannot execute a component as it is chosen."""
        for component in inventory:
            choice = assignment[component.name]
            if component.slot == "weight":
                self.check_layer(component.module, choice, assignment[f"{component.module}.input"])
                inputs = component.numel // component.shape[0]
                if choice.group_size and inputs % choice.group_size and not self.ragged:
                    groups = f"groups of {choice.group_size}, which {inputs} inputs do not fill"
                    raise PmqError(f"target {self.name!r} cannot run {component.name!r} in {groups}; prune to multiples of them")
            elif component.slot != "input" and choice.label != self.elsewhere:
                raise PmqError(
                    f"target {self.name!r} cannot run {component.name!r} at {choice.label} bits; search with --target {self.name}"
                )

    def check_layer(self, name: str, weight: Choice, source: Choice) -> None:
        """Raise if the target cannot execute a layer whose weight and input are chosen so."""
        key = layer_key(weight, source)
        if key not in self.modes:
            runs = f"it runs {', '.join(self.modes)}"
            raise PmqError(f"target {self.name!r} cannot run {name!r} as {key!r}; {runs}; search with --target {self.name}")
        if weight.quantizer == "affine" and not weight.symmetric:
            raise PmqError(f"target {self.name!r} cannot run '{name}.weight', whose grid is not symmetric")

    def versions(self) -> dict[str, str]:
        """Versions of its packages."""
        packages = (self.runtime, *self.packages)
        return {name: str(getattr(import_module(name), "__version__", None) or version(name)) for name in packages}

    @abstractmethod
    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Take the graph of a model without its layers, once; ``image`` is ``(B, C, H, W)``."""

    @abstractmethod
    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Make a graph of one layer alone, whose input has ``shape``."""

    @abstractmethod
    def build(self, skeleton: Any, layers: Sequence[DeployLayer]) -> Any:
        """Make the target's own model object of a graph and its layers."""

    @abstractmethod
    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """Write it, with texts to keep in it; give the files written, the one to open first."""

    @abstractmethod
    def session(self, model: Any, threads: int = 1) -> Session:
        """Load a file, or what :meth:`build` made, ready to run."""

    @abstractmethod
    def stored(self, path: Path) -> dict[str, str]:
        """What each layer does, by :func:`pmq.cost.latency.layer_key`, as read off a file's graph and constants."""

    @abstractmethod
    def metadata(self, path: Path) -> dict[str, str]:
        """Texts kept in a file."""


TARGETS: Registry[Target] = Registry("target")


def register(cls: type[Target]) -> type[Target]:
    """Make a target known by its name."""
    TARGETS.add(cls.name, cls())
    return cls
