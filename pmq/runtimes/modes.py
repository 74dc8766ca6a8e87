"""What a layer may do in some runtime, as :func:`pmq.cost.latency.layer_key` says it."""

from pmq.cost.latency import PLAIN

FLOAT = PLAIN
#: integers of 8 bits, inputs on a grid that calibration fixed
INT8 = "w8 x 8"
#: weights alone: FP16, or integers of 8 or 4 bits with a scale each 32 inputs
HALF, W8, W4 = "w16-half x fp32", "w8-group32 x fp32", "w4-group32 x fp32"
#: weights and inputs in bfloat16
BFLOAT16 = "w16-bfloat16 x 16-bfloat16"
#: integers, each token's grid found when it is there
DYNAMIC8, DYNAMIC4, DYNAMIC4_GROUPS = "w8 x 8-dynamic", "w4 x 8-dynamic", "w4-group32 x 8-dynamic"
