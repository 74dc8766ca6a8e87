"""pmq: mixed-precision search for vision transformers.

``pmq.search(model, images, budget="4bit")`` finds an allocation of bits, ``pmq.simulate(model, allocation)`` gives a module
that computes with it, ``pmq.reallocate`` gives single patches bits of their own (the command ``pmq patches``), ``pmq.prune``
removes channels, ``pmq.load_pruned`` rebuilds what is left, ``pmq.finetune`` trains it, ``pmq.deploy`` makes a file that a
runtime executes, ``pmq.evaluate``, ``pmq.sensitivity``, ``pmq.rank``, ``pmq.profile``, ``pmq.plot``, ``pmq.report``
and ``pmq.export`` are the commands of the same names. See :mod:`pmq.api` for their arguments. Importing pmq is cheap: torch is
loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pmq.core import Allocation, Budget, Choice, PmqError

if TYPE_CHECKING:
    from pmq.api import (
        create_model,
        deploy,
        draw_patches,
        evaluate,
        export,
        finetune,
        load_pruned,
        open_images,
        plot,
        profile,
        prune,
        rank,
        reallocate,
        report,
        search,
        sensitivity,
        simulate,
        with_output,
    )
    from pmq.search.wishes import Wishes

_ROOMS = ("search", "sensitivity", "evaluate", "deploy", "prune", "report")
_FUNCTIONS = (
    "create_model",
    "draw_patches",
    "export",
    "finetune",
    "load_pruned",
    "open_images",
    "plot",
    "profile",
    "rank",
    "reallocate",
    "simulate",
    "with_output",
)

__all__ = [
    "Allocation",
    "Budget",
    "Choice",
    "PmqError",
    "Wishes",
    "create_model",
    "deploy",
    "draw_patches",
    "evaluate",
    "export",
    "finetune",
    "load_pruned",
    "open_images",
    "plot",
    "profile",
    "prune",
    "rank",
    "reallocate",
    "report",
    "search",
    "sensitivity",
    "simulate",
    "with_output",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:  # a package that can be called, see pmq.core.verbs
        return import_module(f"pmq.{name}")
    if name == "Wishes":
        return import_module("pmq.search.wishes").Wishes
    if name in _FUNCTIONS:
        return getattr(import_module("pmq.api"), name)
    raise AttributeError(f"module 'pmq' has no attribute {name!r}")
