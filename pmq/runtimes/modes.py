"""Modes of layers that runtimes support, named as by :func:`pmq.cost.latency.layer_key`."""

from pmq.cost.latency import PLAIN

FLOAT = PLAIN
#: quantized weights only: FP16, or integers of 8 or 4 bits with one scale per 32 inputs
HALF, W8, W4 = "w16-half x fp32", "w8-group32 x fp32", "w4-group32 x fp32"
#: weights and inputs in bfloat16
BFLOAT16 = "w16-bfloat16 x 16-bfloat16"
#: integers, with the grid of each input token determined at run time
DYNAMIC8, DYNAMIC4, DYNAMIC4_GROUPS = "w8 x 8-dynamic", "w4 x 8-dynamic", "w4-group32 x 8-dynamic"
