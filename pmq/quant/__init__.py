"""Quantizers, ranges, transforms and compensation, and the simulator that applies an allocation to a model."""

from pmq.models.finite import check_outputs
from pmq.models.outputs import to_logits, unit_norm
from pmq.quant.calibration import Calibration, calibrate, images_sha256
from pmq.quant.divergence import output_error
from pmq.quant.instrument import Instrument
from pmq.quant.prepare import Prepared, prepare
from pmq.quant.realise import Quantized, quantize, realise, restore
from pmq.quant.simulator import Cut, Simulator
from pmq.quant.weights import quantize_weight

__all__ = [
    "Calibration",
    "Cut",
    "Instrument",
    "Prepared",
    "Quantized",
    "Simulator",
    "calibrate",
    "check_outputs",
    "images_sha256",
    "output_error",
    "prepare",
    "quantize",
    "quantize_weight",
    "realise",
    "restore",
    "to_logits",
    "unit_norm",
]
