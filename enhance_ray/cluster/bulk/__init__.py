"""Bulk restoration: a bucket in, a bucket out, on a pool of actors, for as long as it takes.

    plan      what the input holds, as parts of a manifest on the output's storage
    driver    parts that are left -> actor pool -> records
    identity  what decides the bytes of its outputs
    worker    an actor: one Enhancer, fed from its own threads
    attempt   one attempt at a part: what is written when, under which lease
    feed      from parts to files and back
    ledger    who works on what: leases, commits, progress, and files that kill
    state     the job's memory on the storage
    shards    recordings in tar and Parquet
    forecast  what a job will take and cost, before it begins
    summary   what it took and cost

A segment is the unit of the model's work, a file of commitment, a part of the manifest of the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enhance_ray.cluster.bulk.settings import BulkConfig

if TYPE_CHECKING:
    from enhance_ray.cluster.bulk.driver import Outcome, run

__all__ = ["BulkConfig", "Outcome", "run"]


def __getattr__(name: str) -> Any:
    # The ledger's process imports this package, too, and needs neither torch nor Ray Data: seconds each.
    if name in ("Outcome", "run"):
        from enhance_ray.cluster.bulk import driver

        return getattr(driver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
