"""Costs of allocations: bytes, bit operations, measured milliseconds."""

from pmq.cost.cost_model import CostModel, component_bytes
from pmq.cost.latency import LatencyTable

__all__ = ["CostModel", "LatencyTable", "component_bytes"]
