"""Learning: rounding and scales of one stage at a time, so that its output is again what it was."""

from pmq.quant.reconstruction.checkpoint import Checkpoints, Learned
from pmq.quant.reconstruction.learned import LearnedActivation, LearnedWeight
from pmq.quant.reconstruction.stage import Effort, Learner, Streams, learn

__all__ = ["Checkpoints", "Effort", "Learned", "LearnedActivation", "LearnedWeight", "Learner", "Streams", "learn"]
