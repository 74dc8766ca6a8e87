"""Quantizers, range estimators, transforms and compensation, and the simulator that applies an allocation to a model."""

from pmq.models.finite import check_outputs
from pmq.models.outputs import to_logits, unit_norm
from pmq.quant.calibration import Calibration, calibrate, images_sha256
from pmq.quant.divergence import output_error
from pmq.quant.instrument import Instrument
from pmq.quant.prepare import Prepared, prepare
from pmq.quant.quantized_model import Quantized, build_quantized_model, quantize, restore
from pmq.quant.simulator import MaskedWeight, Simulator
from pmq.quant.weights import quantize_weight

__all__ = [
    "Calibration",
    "Instrument",
    "MaskedWeight",
    "Prepared",
    "Quantized",
    "Simulator",
    "build_quantized_model",
    "calibrate",
    "check_outputs",
    "images_sha256",
    "output_error",
    "prepare",
    "quantize",
    "quantize_weight",
    "restore",
    "to_logits",
    "unit_norm",
]
