"""Quantizers, one a file. A new one: a subclass of ``Quantizer`` with ``@register``, imported here."""

from pmq.quant.quantizers.affine import Affine
from pmq.quant.quantizers.base import QUANTIZERS, Quantizer
from pmq.quant.quantizers.log2 import Log2

__all__ = ["QUANTIZERS", "Affine", "Log2", "Quantizer"]
