"""The flags that spread work over a cluster."""

import pytest

from pmq.cli.cluster import NO_CLUSTER, Cluster
from pmq.core import PmqError
from tests.conftest import pmq


def test_flags_become_options() -> None:
    options = Cluster(ray="auto", ray_workers=3, ray_cpus=2.0).options()
    assert options is not None
    assert (options.address, options.workers, options.cpus, options.gpus) == ("auto", 3, 2.0, 0.0)
    assert NO_CLUSTER.options() is None


def test_threads_are_those_of_workers_unless_they_are_given() -> None:
    assert NO_CLUSTER.threads(None) is None
    assert NO_CLUSTER.threads(3) == 3
    assert Cluster(ray="auto").threads(None) == 1
    assert Cluster(ray="auto", ray_cpus=2.5).threads(None) == 2
    assert Cluster(ray="auto", ray_cpus=0.5, ray_gpus=0.5).threads(4) == 4


def test_flags_of_workers_need_a_place() -> None:
    with pytest.raises(PmqError, match="`ray=local`"):
        Cluster(ray_workers=2).options()


def test_the_command_line_names_flags() -> None:
    done = pmq("search", "--ray-workers", "2")
    assert done.returncode == 2
    assert "pass --ray local, --ray auto or an address" in done.stderr
