"""One attempt at a part of the manifest: what an actor does in which order, under a lease.

The order is what a job's promise rests on (`docs/bulk_protocol.md`): an output before its record, a record
before the part's commit, and nothing is written in the name of a part whose lease is another's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from enhance_ray.cluster.bulk.ledger import Assignment, Count
from enhance_ray.cluster.bulk.state import RECORDS, JobState, unique

Row = dict[str, Any]
"""Of the manifest, or of `RECORDS`."""


class LeaseLostError(Exception):
    """The part is another actor's by now."""


class Leases(Protocol):
    """The ledger, as an attempt sees it. Each call raises `LeaseLostError` where the lease is another's."""

    def begin(self, part: str, attempt: str) -> Assignment:
        """Take the lease of ``part``."""

    def resume(self, part: str, attempt: str, count: Count) -> None:
        """Tell what was found of the attempts before."""

    def check(self) -> None:
        """Tell what was opened and finished since, and hear whether the leases still hold."""

    def commit(self, part: str, attempt: str, count: Count) -> None:
        """Have the ledger publish what the attempt staged, which ends the lease."""

    def end(self, part: str, attempt: str) -> None:
        """Give the lease back."""


class PartWork(Protocol):
    """Files of a part on their way."""

    is_complete: bool
    """Whether `results` ended because there is a record of every file."""

    def results(self, timeout: float) -> Iterator[list[Row] | None]:
        """Records as they come, an empty list where none came for ``timeout`` seconds, and None where those
        that came are to be written down now."""

    def close(self) -> None:
        """Remove what it left on this machine."""


def attempt_part(
    part: str,
    state: JobState,
    leases: Leases,
    begin_work: Callable[[str, list[Row], Assignment], PartWork],
    flush_seconds: float,
) -> bool:
    """Do what is left of ``part``, and commit it.

    Args:
        part: its name.
        state: the job's memory.
        leases: the ledger.
        begin_work: starts on a part's rows of the manifest that have no record yet.
        flush_seconds: how often records are written down before all are there.

    Returns:
        Whether all of it is done; not where the work was stopped.

    Raises:
        LeaseLostError: the part is another's; nothing was committed.
        RuntimeError: a file has no record: rather a failed job than a lost file.
    """
    attempt = uuid.uuid4().hex
    assignment = leases.begin(part, attempt)
    if state.is_finished(part):  # a task is run again if the machine with its answer was lost
        leases.end(part, attempt)
        return True
    records = [state.progress(part)]
    manifest = state.manifest(part).to_pylist()
    recorded = set(records[0]["uri"].to_pylist())
    found = sum(row["bytes"] or 0 for row in manifest if row["uri"] in recorded)
    leases.resume(part, attempt, _count(records[0], found))
    # The largest first: at the end of a part, files are small, and the actor's threads end together.
    rows = sorted(
        (row for row in manifest if row["uri"] not in recorded), key=lambda row: -(row["bytes"] or 0)
    )

    def flush() -> None:
        # What is written down has been told: the rest is what is computed again. And only a holder writes.
        leases.check()
        records.append(pa.Table.from_pylist(fresh, RECORDS))
        state.add_progress(part, records[-1])
        fresh.clear()

    fresh: list[Row] = []
    flushed = time.monotonic()
    work = begin_work(part, rows, assignment)
    try:
        for finished in work.results(flush_seconds):
            fresh += finished or []
            if fresh and (finished is None or time.monotonic() - flushed > flush_seconds):
                flush()
                flushed = time.monotonic()
        if not work.is_complete:
            if fresh:
                flush()
            leases.end(part, attempt)
            return False
        table = unique(pa.concat_tables([*records, pa.Table.from_pylist(fresh, RECORDS)]))
        if lost := {row["uri"] for row in manifest} - set(table["uri"].to_pylist()):
            raise RuntimeError(f"{part}: there is no record of {sorted(lost)[:3]}")
        leases.check()
        state.stage(part, attempt, table)
        leases.commit(part, attempt, _count(table, sum(row["bytes"] or 0 for row in manifest)))
        state.drop_progress(part)
        return True
    finally:
        work.close()  # after the commit: until then there are records that a killed process would lose


def _count(records: pa.Table, size: int) -> Count:
    failed: int = pc.sum(pc.equal(records["status"], "failed")).as_py() or 0
    return Count(len(records) - failed, failed, size)
