"""Options of an execution on Ray."""

from __future__ import annotations

from dataclasses import dataclass

from pmq.core.errors import PmqError


@dataclass(frozen=True)
class RayOptions:
    """Where the workers are, and what each of them has.

    Attributes:
        address: ``local`` starts Ray on this machine and ends it afterwards; ``auto`` uses the cluster that this machine belongs
            to; ``HOST:PORT`` and ``ray://HOST:PORT`` name a cluster.
        workers: number of workers; by default as many as the cluster has room for.
        cpus: CPUs of a worker, as a resource of Ray.
        gpus: GPUs of a worker, as a resource of Ray; a share such as 0.5 lets workers use one GPU together.
        task_seconds: time limit of one task, after which its worker is replaced and the task is repeated.

    Raises:
        PmqError: a number is out of range.

    >>> RayOptions("local", workers=2).cpus
    1.0
    """

    address: str = "auto"
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    task_seconds: float = 1800.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise PmqError(f"`ray_workers` is {self.workers}; at least one worker is needed")
        if self.cpus < 0 or self.gpus < 0 or not self.cpus + self.gpus:
            raise PmqError(f"a worker with {self.cpus:g} CPUs and {self.gpus:g} GPUs cannot compute; raise `ray_cpus`")
        if self.task_seconds <= 0:
            raise PmqError(f"`ray_timeout` is {self.task_seconds:g} s; it must be above 0")
