"""Closed-form compensation of quantization error, from streamed statistics of a layer's inputs."""

from pmq.quant.compensation.gptq import compensated
from pmq.quant.compensation.moments import RowMean, SecondMoment, output_rows, rows_of

__all__ = ["RowMean", "SecondMoment", "compensated", "output_rows", "rows_of"]
