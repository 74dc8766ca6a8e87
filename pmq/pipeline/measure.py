"""Measurement of sensitivity tables whose entries are journaled one by one."""

from __future__ import annotations

from typing import Any

from pmq.core import Choice
from pmq.core.rundir import RunDir
from pmq.metrics import METRICS, Probe, SensitivityTable
from pmq.metrics.base import Choices
from pmq.optimize import Space
from pmq.quant.quantizers import QUANTIZERS


def check_quantizers(space: Space) -> None:
    """Raise if the space names a quantizer that does not exist.

    The optimizer imports no quantizers, so it cannot check this.
    """
    for choices in space.choices.values():
        for choice in choices:
            if not choice.is_fp32:
                QUANTIZERS.check(choice.quantizer)


def measure(probe: Probe, choices: Choices, metric_name: str, run: RunDir | None = None, prefix: str = "") -> SensitivityTable:
    """Measure the sensitivities of some choices; the run's journal stores them under ``prefix`` and supplies known ones.

    The probe also gets the journal, for sums over parts of the images.
    """
    probe.journal = None if run is None else _Sums(run, f"sums/{prefix}")

    def key(name: str, choice: Choice) -> str:
        return f"sensitivity/{prefix}{name}/{choice.key()}"

    def recall(name: str, choice: Choice) -> float | None:
        entry = run.recall(key(name, choice)) if run else None
        return None if entry is None else float(entry["error"])

    def record(name: str, choice: Choice, error: float) -> None:
        if run:
            run.record(key(name, choice), {"error": error})

    return METRICS[metric_name].measure(probe, choices, recall, record)


class _Sums:
    """The part of a run's journal that stores the sums of one table."""

    def __init__(self, run: RunDir, prefix: str) -> None:
        self._run, self._prefix = run, prefix

    def recall(self, key: str) -> dict[str, Any] | None:
        return self._run.recall(self._prefix + key)

    def record(self, key: str, value: dict[str, Any]) -> None:
        self._run.record(self._prefix + key, value)
