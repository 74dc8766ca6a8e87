"""Quantizers, ranges, and the simulator that applies an allocation to a model."""

from pmq.quant.calibration import Calibration, calibrate, images_sha256
from pmq.quant.divergence import output_error
from pmq.quant.instrument import Instrument
from pmq.quant.simulator import Simulator
from pmq.quant.weights import fake_quantize_weight

__all__ = [
    "Calibration",
    "Instrument",
    "Simulator",
    "calibrate",
    "fake_quantize_weight",
    "images_sha256",
    "output_error",
]
