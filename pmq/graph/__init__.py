"""Captured graphs: one representation of every vision transformer, which all other packages work on."""

from pmq.graph.build import analyse, captured
from pmq.graph.inventory import component_of, take_inventory
from pmq.graph.model import CapturedModel
from pmq.graph.taps import Attention, Layer, Product, TapFunction, Tapped
from pmq.graph.tensors import with_tensors

__all__ = [
    "Attention",
    "CapturedModel",
    "Layer",
    "Product",
    "TapFunction",
    "Tapped",
    "analyse",
    "captured",
    "component_of",
    "take_inventory",
    "with_tensors",
]
