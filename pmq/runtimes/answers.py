"""What a model's outputs say, by its task. No torch here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmq.core.errors import PmqError
from pmq.runtimes.labels import Description

#: what the two decisions of one logit are called where a file does not say
DECISIONS = ("negative", "positive")


def answer(outputs: NDArray[Any], description: Description, top: int) -> list[tuple[str, int, float]]:
    """Name what outputs ``(1, C)`` say: the ``top`` likeliest classes with their probabilities; of a regression, all values.

    Between name and figure stands the number of the class or value.

    Raises:
        PmqError: there are not as many as the file says, or some are no numbers.
    """
    preprocess, names = description.preprocess, description.classes
    told = (1, preprocess.num_classes)
    if outputs.shape != told:
        raise PmqError(f"outputs are of shape {outputs.shape}, not {told} as the file says: it is damaged; deploy it anew")
    values = outputs[0].astype(np.float64)
    if not np.isfinite(values).all():
        raise PmqError("outputs are infinite or no numbers: the file is damaged; deploy it anew")
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
