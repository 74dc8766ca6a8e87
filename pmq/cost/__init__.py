"""Costs of allocations: bytes, bit operations, measured milliseconds."""

from pmq.cost.latency import LatencyTable
from pmq.cost.table import CostModel, component_bytes

__all__ = ["CostModel", "LatencyTable", "component_bytes"]
