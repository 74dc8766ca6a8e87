"""Costs of allocations: bytes and bit operations."""

from pmq.cost.table import CostModel, component_bytes

__all__ = ["CostModel", "component_bytes"]
