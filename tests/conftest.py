"""What all tests share."""

import os

import pytest

# Before torch is imported. More threads than cores to run on would slow the tests down by an order
# of magnitude, and one number of threads gives one order of summation.
os.environ.setdefault("OMP_NUM_THREADS", "2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `pytest -n`: a file's tests stay on one worker, and all that need the cluster on the same one."""
    clustered = {
        item.path for item in items if {"ray_cluster", "s3"} & set(getattr(item, "fixturenames", ()))
    }
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cluster" if item.path in clustered else str(item.path)))
