"""Error predictions from effects: the output changes of an allocation's components are summed and then evaluated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmq.metrics.sensitivity_table import Effects
from pmq.optimize.space import Space

Singles = NDArray[np.float32]
#: number of genomes predicted together
_CHUNK = 256


class Superposition:
    """Predicts the error of genomes from the sum of their components' output changes.

    The sum over components is a matrix product: one row of zeros and ones per genome, one column of changes per logit of
    each image.

    Args:
        space: the space whose decisions the genomes index.
        effects: the changes.
        width: number of choices of the longest decision.
    """

    def __init__(self, space: Space, effects: Effects, width: int) -> None:
        self._images, _ = effects.reference.shape
        self._changes: Singles = np.zeros((len(space.decisions) * width, effects.reference.size), np.float32)
        for d, decision in enumerate(space.decisions):
            for name, choices in zip(decision.components, decision.choices, strict=True):
                for k, choice in enumerate(choices):
                    if choice in effects.changes.get(name, {}):
                        self._changes[d * width + k] += effects.changes[name][choice].ravel()
        self._first = np.arange(len(space.decisions)) * width
        self._decides, self._start = effects.task.decides, effects.start.ravel()
        self._target = effects.reference.ravel()
        if self._decides:
            log_p = _log_softmax(effects.reference)
            self._p, self._entropy = np.exp(log_p), float((np.exp(log_p) * log_p).sum(1).mean())

    def __call__(self, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the predicted errors ``(B,)`` of genomes ``(B, D)``."""
        errors = np.empty(len(genomes))
        for start in range(0, len(genomes), _CHUNK):
            part = genomes[start : start + _CHUNK]
            chosen = np.zeros((len(part), len(self._changes)), np.float32)
            np.put_along_axis(chosen, part + self._first, 1.0, axis=1)
            errors[start : start + _CHUNK] = self._errors(chosen @ self._changes)
        return errors

    def _errors(self, changes: Singles) -> NDArray[np.float64]:
        outputs = changes
        outputs += self._start
        if not self._decides:
            outputs -= self._target
            return np.asarray(np.einsum("bf,bf->b", outputs, outputs) / self._images, np.float64)
        logits = outputs.reshape(len(outputs), self._images, -1)
        # KL = sum p log p - sum p z + log sum exp z, for each image; logits are near those of FP32, so exp is safe.
        logits -= logits.max(2, keepdims=True)
        expected = np.einsum("bnm,nm->b", logits, self._p)
        np.exp(logits, out=logits)
        total = np.log(logits.sum(2)).sum(1)
        return np.asarray(self._entropy + (total - expected) / self._images, np.float64)


def _log_softmax(logits: Singles) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
