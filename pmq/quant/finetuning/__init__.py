"""Quantization-aware fine-tuning: weights, step sizes and offsets of a quantized model as parameters with gradients."""

from pmq.quant.finetuning.learned_grid import LearnedGrid
from pmq.quant.finetuning.student import QuantizedStudent

__all__ = ["LearnedGrid", "QuantizedStudent"]
