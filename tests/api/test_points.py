"""Budgets that a search sweeps through."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from pmq.pipeline.search.explore import _sweep


@pytest.mark.filterwarnings("error")
def test_milliseconds_below_zero_leave_no_budget_without_a_number() -> None:
    tables: Any = SimpleNamespace(lower_bound=lambda: (100, 200, -0.5), upper_bound=lambda: (400, 800, 1.0))
    limits = [limits for _, limits in _sweep(tables)]
    assert all(math.isfinite(value) for each in limits for value in (each.size_bytes, each.bit_ops, each.latency_ms))
    middle = limits[len(limits) // 2 - 1]
    assert middle.size_bytes == pytest.approx(200)
    assert (middle.latency_ms, limits[-1].latency_ms) == pytest.approx((0.25, 1.0))
