"""Quantizers, one per file. To add one, write a subclass of ``Quantizer`` with ``@register`` and import it here."""

from pmq.quant.quantizers.affine import Affine
from pmq.quant.quantizers.base import QUANTIZERS, Quantizer
from pmq.quant.quantizers.codebook import Codebook
from pmq.quant.quantizers.dynamic import Dynamic
from pmq.quant.quantizers.half import BFloat16, Half
from pmq.quant.quantizers.log import Log
from pmq.quant.quantizers.palette import Palette
from pmq.quant.quantizers.power import Power
from pmq.quant.quantizers.relative import Relative

__all__ = ["QUANTIZERS", "Affine", "BFloat16", "Codebook", "Dynamic", "Half", "Log", "Palette", "Power", "Quantizer", "Relative"]
