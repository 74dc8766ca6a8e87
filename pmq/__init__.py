"""pmq: mixed-precision search for vision transformers.

    search         find the Pareto front of bit-width allocations, and choose one within a budget
    sensitivity    measure how much error each choice of bits makes
    rank           compare sensitivity metrics with what simulation finds
    evaluate       measure the accuracy of allocations on a data set
    simulate       give a module that computes with an allocation
    reallocate     give single patches bits of their own (the command ``pmq patches``)
    prune          remove channels and heads, and reconstruct the rest
    load_pruned    rebuild a pruned model from its folder
    finetune       train a pruned or quantized model by distillation
    profile        measure the latency of each choice on a runtime
    deploy         write a model file that a runtime executes, and prove it
    demo           write a web page that classifies pictures with a deployed file
    plot           draw the figures of a run
    report         write the page of a run, or of several
    resolve        solve the tables of a run for another budget
    export         write an allocation as JSON
    draw_patches   draw the bits of patches over images
    create_model   make a model by timm's name, or the embedded one
    open_images    open a folder of images, preprocessed for a model
    with_output    choose one of several outputs of a model

Further options of a search are fields of ``SearchOptions`` (recipe, metric, patches, pruning, constraints), ``DataSplit``
(numbers of images) and ``RunOptions`` (seed, device, resuming, ``RayOptions`` of a cluster's workers).
Importing pmq is cheap: torch is loaded when a function is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pmq.core import Allocation, Budget, Choice, PmqError

if TYPE_CHECKING:
    from pmq.api import (
        DataSplit,
        RayOptions,
        RunOptions,
        SearchOptions,
        create_model,
        demo,
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
        resolve,
        search,
        sensitivity,
        simulate,
        with_output,
    )
    from pmq.optimize.constraints import Constraints

__all__ = [
    "Allocation",
    "Budget",
    "Choice",
    "Constraints",
    "DataSplit",
    "PmqError",
    "RayOptions",
    "RunOptions",
    "SearchOptions",
    "create_model",
    "demo",
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
    "resolve",
    "search",
    "sensitivity",
    "simulate",
    "with_output",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "Constraints":
        return import_module("pmq.optimize.constraints").Constraints
    if name in __all__:
        return getattr(import_module("pmq.api"), name)
    raise AttributeError(f"module 'pmq' has no attribute {name!r}")
