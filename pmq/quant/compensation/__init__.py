"""Closed-form compensation of quantization error, from streamed statistics of a layer's inputs."""

from pmq.quant.compensation.gptq import Compensator
from pmq.quant.compensation.logits import logit_scale
from pmq.quant.compensation.moments import RowMean, SecondMoment, has_rows, output_rows, rows_of
from pmq.quant.compensation.ridge import ridge_corrected

__all__ = ["Compensator", "RowMean", "SecondMoment", "has_rows", "logit_scale", "output_rows", "ridge_corrected", "rows_of"]
