"""Connection to a Ray cluster, and what its errors mean."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from typing import Any

from pmq.core.errors import PmqError, one_line
from pmq.evaluation.ray_options import RayOptions

#: what the text of an error says of a worker's end
_MEMORY = re.compile(r"running low on memory|killed due to memory pressure|MemoryError")
_NODE = re.compile(r"node (has )?(died|was terminated|is dead)|dead node|node failure", re.IGNORECASE)


def import_ray() -> Any:
    """Import Ray.

    Raises:
        PmqError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a search reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray warns of a change to come
    try:
        import ray
    except ImportError:
        raise PmqError("`ray` needs 'ray', which is not installed; pip install 'pmq[ray]'") from None
    return ray


def connect(ray: Any, options: RayOptions) -> bool:
    """Connect this process to the cluster of the options; return whether it was not connected before.

    Raises:
        PmqError: there is no such cluster, or Ray cannot be started here.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if options.address == "local":
        cpus = None if options.workers is None else max(1, math.ceil(options.workers * options.cpus))
        here: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    else:
        here = {"address": options.address}
        if not re.fullmatch(r"auto|(ray://)?[\w.\-\[\]:]+:\d+", options.address):
            raise PmqError(f"`ray` is {options.address!r}, which is not auto, local, HOST:PORT or ray://HOST:PORT")
    try:
        ray.init(**here, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError, ray.exceptions.RayError) as error:
        with suppress(Exception):
            ray.shutdown()
        hint = "check the address, and that this machine has the cluster's token"
        if options.address == "auto":
            hint = "start one by `ray start --head`, or pass `ray=local`"
        if options.address == "local":
            hint = "see the logs of its session"
        raise PmqError(f"Ray at {options.address!r} cannot be reached: {one_line(error)}; {hint}") from None
    return True


def room(ray: Any, options: RayOptions) -> int:
    """Return the number of workers: as asked, or as many as the cluster has room for.

    Raises:
        PmqError: the cluster has no room for them.
    """
    has = ray.cluster_resources()
    fits = [int(has.get(name, 0.0) / need + 1e-6) for name, need in (("CPU", options.cpus), ("GPU", options.gpus)) if need]
    workers = options.workers or min(fits)
    if not workers or workers > min(fits):
        resources = f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs, which is room for {min(fits)} workers"
        raise PmqError(
            f"the Ray cluster has {resources} of {options.cpus:g} CPUs and {options.gpus:g} GPUs each; "
            "change `ray_workers`, `ray_cpus` or `ray_gpus`"
        )
    return workers


def is_loss(ray: Any, error: BaseException) -> bool:
    """Return whether an error means that the worker itself is lost, rather than that its task failed."""
    kinds = ray.exceptions
    return isinstance(error, kinds.RayActorError | kinds.WorkerCrashedError | kinds.OutOfMemoryError | kinds.NodeDiedError)


def reason_of(ray: Any, error: BaseException) -> str:
    """Return in one line why a task failed or a worker was lost."""
    kinds, text = ray.exceptions, str(error)
    if isinstance(error, kinds.RayTaskError):
        return one_line(error.cause)
    if isinstance(error, kinds.OutOfMemoryError) or _MEMORY.search(text):
        return "it ran out of memory; let fewer workers share a node, or lower the batch size"
    if isinstance(error, kinds.NodeDiedError) or _NODE.search(text):
        return "its node was lost"
    if isinstance(error, kinds.RayActorError | kinds.WorkerCrashedError):
        return "its process was killed, by someone or for lack of memory, or it crashed"
    return one_line(error)


def put(ray: Any, data: bytes, what: str) -> Any:
    """Place bytes in the object store and return the reference.

    Raises:
        PmqError: they do not fit.
    """
    try:
        return ray.put(data)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        kind = "object store is" if isinstance(error, ray.exceptions.ObjectStoreFullError) else "disk for spilled objects is"
        raise PmqError(
            f"Ray's {kind} full: {what} needs {len(data) / 1e6:.0f} MB; start Ray with a larger --object-store-memory"
        ) from None
