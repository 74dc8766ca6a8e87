"""A real Ray cluster of two nodes on this machine, for tests; they are skipped without Ray or without ``PMQ_RAY``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import torch

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or "PMQ_RAY" not in os.environ,
    reason="starts Ray clusters, which takes minutes: `make test-ray` installs Ray, sets PMQ_RAY and runs this",
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def two_nodes(**system: Any) -> Iterator[Any]:
    """Two nodes of one CPU each; ``system`` are settings of Ray itself."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node | ({"_system_config": system} if system else {}))
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes; ``cluster.address`` is what ``--ray`` takes."""
    with two_nodes() as cluster:
        yield cluster
