"""What all tests share."""

import os

import pytest

# Before torch is imported. One number of threads gives one order of summation. Beside another worker of
# pytest-xdist it is one thread: OpenMP's threads wait by spinning, and those of two processes on two cores
# would mostly wait for each other.
IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1" if IS_XDIST_WORKER else "2")


# First, because pytest-xdist reads the marks in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `pytest -n`: a file's tests stay on one worker, and all that need the cluster on the same one."""
    clustered = {
        item.path for item in items if {"ray_cluster", "s3"} & set(getattr(item, "fixturenames", ()))
    }
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cluster" if item.path in clustered else item.path.stem))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids: list[str]) -> None:
    """Stop where groups have no effect: each worker would start a Ray cluster and pay for every fixture.

    pytest-xdist writes a test's group into its ID, in an attribute that pytest 9.2 no longer reads.
    """
    ungrouped = [name for name in ids if "@" not in name.rpartition("]")[2]]
    if node.config.getoption("dist") == "loadgroup" and ungrouped:
        pytest.exit(
            f"pytest {pytest.__version__} and pytest-xdist do not keep groups of tests together (the ID "
            f"{ungrouped[0]} names no group): install the versions of constraints.txt",
            returncode=4,
        )
