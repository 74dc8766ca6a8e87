"""The flags that spread work over a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmq.cli import options as o

if TYPE_CHECKING:
    from pmq.evaluation import RayOptions


@dataclass(frozen=True)
class Cluster:
    """Flags that say where the workers are, and what each of them has; without ``ray`` this process does the work."""

    ray: o.Ray = None
    ray_workers: o.RayWorkers = None
    ray_cpus: o.RayCpus = 1.0
    ray_gpus: o.RayGpus = 0.0
    ray_timeout: o.RayTimeout = 1800.0

    def options(self) -> RayOptions | None:
        """Return the options of the library, or None without ``ray``.

        Raises:
            PmqError: a flag of workers is given without ``ray``, or is out of range.
        """
        from pmq.core import PmqError
        from pmq.evaluation import RayOptions

        if self.ray is None:
            if self != NO_CLUSTER:
                raise PmqError("flags of workers need a place where they run; pass `ray=local`, `ray=auto` or an address")
            return None
        return RayOptions(self.ray, self.ray_workers, self.ray_cpus, self.ray_gpus, self.ray_timeout)

    def threads(self, threads: int | None) -> int | None:
        """Return the number of threads: as asked, or on a cluster as many as the CPUs of a worker.

        The process that gives the work away takes as many threads as the workers, because results depend on it.
        """
        return max(1, int(self.ray_cpus)) if threads is None and self.ray is not None else threads


#: without any flag
NO_CLUSTER = Cluster()
