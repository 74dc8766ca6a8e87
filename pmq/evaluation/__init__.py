"""Accuracy of allocations, evaluated by simulation, in this process or on the workers of a cluster."""

from pmq.evaluation.accuracy import Accuracy
from pmq.evaluation.comparison import Metrics, evaluate_models
from pmq.evaluation.evaluator import Evaluator
from pmq.evaluation.executor import Executor, LocalExecutor
from pmq.evaluation.ray_options import RayOptions

__all__ = ["Accuracy", "Evaluator", "Executor", "LocalExecutor", "Metrics", "RayOptions", "evaluate_models", "executor_of"]


def executor_of(options: RayOptions | None) -> Executor:
    """Return the executor of some options: this process, or the workers of a Ray cluster.

    Raises:
        PmqError: Ray is not installed, or the cluster cannot be reached or has no room.
    """
    if options is None:
        return LocalExecutor()
    from pmq.evaluation.ray_executor import RayExecutor

    return RayExecutor(options)
