"""The kinds of maps of patches, and which of them a model and a target can have."""

from __future__ import annotations

from typing import Literal

from pmq.core import PmqError
from pmq.core.component import Inventory
from pmq.patches import attends_globally
from pmq.quant.token_scores import SCORES

#: default score that ranks tokens
SCORE = "class_range"


def check_kind(kind: str, score: str | None = None) -> Literal["static", "dynamic"]:
    """Return the kind of a map after checking it and the score.

    Raises:
        PmqError: the kind or the score is unknown, or a score was given for a static map.
    """
    if kind != "static" and kind != "dynamic":
        raise PmqError(f"kind {kind!r} is not one of static, dynamic")
    if score is not None:
        if kind == "static":
            raise PmqError(f"score {score!r} ranks patches image by image; a static map needs none; use `kind=dynamic`")
        SCORES.check(score)
    return "dynamic" if kind == "dynamic" else "static"


def check_possible(kind: str, inventory: Inventory, target: str | None) -> None:
    """Raise unless the model can have a map of this kind on the target.

    Raises:
        PmqError: the kind is unknown, the model cannot rank tokens, or the target cannot execute the map.
    """
    if check_kind(kind) == "dynamic" and target is not None:
        raise PmqError(f"target {target!r} skips tokens at fixed positions only; use a static map")
    if kind == "dynamic" and not attends_globally(inventory):
        raise PmqError("the tokens of this model are in windows, which no score ranks; use a static map")
