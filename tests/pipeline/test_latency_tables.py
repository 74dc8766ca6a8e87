"""Latency tables that a busy machine spoils are measured again."""

from __future__ import annotations

import pytest

from pmq.cost import LatencyTable
from pmq.pipeline import latency_tables
from pmq.pipeline.latency_tables import ATTEMPTS, fastest_ms, profile_model
from tests.conftest import make_tiny


def table(rest_ms: float) -> LatencyTable:
    layers = {"a": {"wfp32/fp32": 2.0, "w8/8": 1.0}, "b": {"wfp32/fp32": 3.0, "w8/8": 4.0}}
    return LatencyTable(target="onnxruntime", model="m", batch_size=1, threads=1, fingerprint={}, layers=layers, rest_ms=rest_ms)


def test_the_fastest_choice_of_each_layer_counts() -> None:
    assert fastest_ms(table(0.5)) == 4.5


@pytest.mark.parametrize(("rests", "measured"), [([1.0], 1), ([-5.0, 1.0], 2), ([-5.0] * ATTEMPTS, ATTEMPTS)])
def test_a_table_without_time_is_measured_again(
    rests: list[float], measured: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [table(rest) for rest in rests]
    monkeypatch.setattr(latency_tables, "profile_layers", lambda *_: tables.pop(0))
    assert profile_model(make_tiny(), "onnxruntime").rest_ms == rests[-1]
    assert not tables
    assert capsys.readouterr().err.count("measuring again") == measured - 1
