"""Translation of a model's outputs to named answers, by task; this module does not import torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmq.core.errors import PmqError
from pmq.runtimes.labels import Description

#: names of the two decisions of a single logit where a file contains no class names
DECISIONS = ("negative", "positive")


def answer(outputs: NDArray[Any], description: Description, top: int) -> list[tuple[str, int, float]]:
    """Return the ``top`` most probable classes of outputs ``(1, C)`` with their probabilities; all values for a regression.

    Returns:
        Tuples of name, index of the class or value, and probability or value.

    Raises:
        PmqError: the number of outputs differs from the file's description, or outputs are infinite or not a number.
    """
    preprocess, names = description.preprocess, description.classes
    expected = (1, preprocess.num_classes)
    if outputs.shape != expected:
        raise PmqError(
            f"outputs have shape {outputs.shape}, not {expected} as the file states: it is damaged; deploy the model again"
        )
    values = outputs[0].astype(np.float64)
    if not np.isfinite(values).all():
        raise PmqError("outputs are infinite or not a number: the file is damaged; deploy the model again")
    if preprocess.meaning == "regression":
        return [(names[i] if names else str(i), i, float(value)) for i, value in enumerate(values)]
    if preprocess.meaning == "multilabel":
        shares = 1 / (1 + np.exp(-np.clip(values, -700, 700)))
        return [(names[i] if names else str(i), int(i), float(shares[i])) for i in np.argsort(-shares, kind="stable")[:top]]
    if preprocess.meaning == "binary":
        names, values = names if len(names) == 2 else DECISIONS, np.array([0.0, values[0]])
    shares = np.exp(values - values.max())
    shares /= shares.sum()
    return [(names[i] if names else str(i), int(i), float(shares[i])) for i in np.argsort(-shares, kind="stable")[:top]]
