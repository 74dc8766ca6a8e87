"""Rooms that are verbs: ``pmq.search`` is a package and, called, does what ``pmq search`` does."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class VerbModule(ModuleType):
    """A module that can be called; a package makes itself one by ``sys.modules[__name__].__class__ = VerbModule``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of :mod:`pmq.api` that has this package's name."""
        return getattr(import_module("pmq.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)
