"""Reconstruction: gradient descent on rounding and scales of one stage at a time, which reduces the error of its output."""

from pmq.quant.reconstruction.block import learn_block, row_weights
from pmq.quant.reconstruction.checkpoint import REVISION, Checkpoints, Learned
from pmq.quant.reconstruction.learned import LearnedActivation, LearnedWeight
from pmq.quant.reconstruction.stage import LearningSchedule, Streams

__all__ = [
    "REVISION",
    "Checkpoints",
    "Learned",
    "LearnedActivation",
    "LearnedWeight",
    "LearningSchedule",
    "Streams",
    "learn_block",
    "row_weights",
]
