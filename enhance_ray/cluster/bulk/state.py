"""A job's memory, on the storage of its output: what is planned, what is done, for whom.

    OUTPUT/_enhance_ray/job.json                                 which job the outputs belong to
    OUTPUT/_enhance_ray/JOB/manifest/part-00000.parquet          inputs; later runs add parts, none is changed
    OUTPUT/_enhance_ray/JOB/listing.json                         how far the input is listed, until it is
    OUTPUT/_enhance_ray/JOB/listed.json                          versions of inputs that need no listing again
    OUTPUT/_enhance_ray/JOB/progress/part-00000/....parquet      records of a part that is being worked on
    OUTPUT/_enhance_ray/JOB/staged/part-00000.ATTEMPT.parquet    what an attempt asks to be its records
    OUTPUT/_enhance_ray/JOB/records/part-00000.parquet           its records, when it is done
    OUTPUT/_enhance_ray/JOB/failed/part-00000.parquet            those of them that failed
    OUTPUT/_enhance_ray/JOB/merged/part-00000..part-00999.parquet    records of many parts, for readers
    OUTPUT/_enhance_ray/JOB/run.json                             which run of the job may commit
    OUTPUT/_enhance_ray/JOB/report.html, report.json

Every file is written at once, and is there or not; a part's table of records is its commit. So a run that
begins anew learns from names alone what is left: a million records are a thousand names. Who commits, and
when, is in `docs/bulk_protocol.md`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enhance_ray.cluster.folder import STORAGE_PATIENCE, Folder
from enhance_ray.records import JOB_FOLDER, covered

MANIFEST = pa.schema(
    [
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("etag", pa.string()),
        ("last_modified", pa.timestamp("us", tz="UTC")),
        ("output", pa.string()),  # where a manifest of the user's gives one
        ("extra", pa.string()),  # its other columns, as JSON
    ]
)
"""Columns of a part of the manifest."""

RECORDS = pa.schema(
    [
        ("uri", pa.string()),
        ("output", pa.string()),
        ("status", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("warning", pa.string()),
        ("seconds", pa.float64()),
        ("seconds_spent", pa.float64()),
        ("decode_seconds", pa.float64()),
        ("prepare_seconds", pa.float64()),
        ("wait_seconds", pa.float64()),
        ("model_seconds", pa.float64()),
        ("encode_seconds", pa.float64()),
        ("input_bytes", pa.int64()),
        ("output_bytes", pa.int64()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int32()),
        ("peak_in", pa.float32()),
        ("peak_out", pa.float32()),
        ("peak_reduction", pa.float32()),
        ("loudness_in", pa.float32()),
        ("loudness_out", pa.float32()),
        ("guard", pa.string()),  # JSON
        ("scores", pa.string()),  # JSON
        ("model", pa.string()),
        ("etag", pa.string()),
        ("member", pa.string()),  # of a shard
        ("actor", pa.string()),
        ("finished", pa.timestamp("us", tz="UTC")),
        ("extra", pa.string()),
    ]
)
"""Columns of a table of records: those of `records.Record`, and where the work was done."""

_KEY = ("uri", "member")
_MERGED_BYTES = 128_000_000
_RUN = "run.json"
_LISTING = "listing.json"
_LISTED = "listed.json"


class JobState:
    """What is known of one job."""

    def __init__(
        self, output: str, job: str, patience: float = STORAGE_PATIENCE, run: str | None = None
    ) -> None:
        """Name it; `open_job` finds or begins one.

        Args:
            output: of the job.
            job: its name.
            patience: for a storage that fails, in seconds.
            run: what `claim` gave to the run that this is of.
        """
        self.job = job
        self.run = run
        self.folder = Folder(f"{output.rstrip('/')}/{JOB_FOLDER}/{job}", patience)
        self._sizes: dict[str, tuple[int, int]] = {}

    def parts(self) -> list[str]:
        """All parts of the manifest, by name without extension, in order."""
        names = (name for name in self.folder.names("manifest") if _is_part(name))
        # By their numbers, of which some have more digits.
        return [name.removesuffix(".parquet") for name in sorted(names, key=lambda name: (len(name), name))]

    def listing(self) -> tuple[str, str] | None:
        """How far a listing came that did not end: one of the job's inputs, and the last recording of it that
        is in the manifest; all inputs before that one are."""
        if not self.folder.exists(_LISTING):
            return None
        tree = json.loads(self.folder.read(_LISTING))
        return tree["input"], tree["after"]

    def note_listing(self, place: tuple[str, str] | None) -> None:
        """Write down what `listing` is to give; None when the listing has ended."""
        if place is None:
            self.folder.remove(_LISTING)
            return
        source, last = place
        self.folder.write(_LISTING, json.dumps({"input": source, "after": last}).encode())

    def listed(self) -> dict[str, str]:
        """Inputs that were listed completely, with the versions (`inputs.version`) that they had then."""
        found: dict[str, str] = {}
        if self.folder.exists(_LISTED):
            found = json.loads(self.folder.read(_LISTED))
        return found

    def note_listed(self, versions: Mapping[str, str]) -> None:
        """Write down what `listed` is to give."""
        self.folder.write(_LISTED, json.dumps(dict(versions)).encode())

    def finished(self) -> set[str]:
        """Parts whose records are complete."""
        return {name.removesuffix(".parquet") for name in self.folder.names("records")}

    def is_finished(self, part: str) -> bool:
        """Whether the records of ``part`` are complete."""
        return self.folder.exists(f"records/{part}.parquet")

    def manifest(self, part: str) -> pa.Table:
        """Inputs of ``part``."""
        return self.folder.read_table(f"manifest/{part}.parquet")

    def add_part(self, number: int, inputs: pa.Table) -> None:
        """Write another part of the manifest."""
        part = f"part-{number:05d}"
        self.folder.write_table(f"manifest/{part}.parquet", inputs)
        self._sizes[part] = _files_and_bytes(inputs)

    def inputs(self, parts: Sequence[str], columns: Sequence[str]) -> Generator[pa.Table, None, None]:
        """These columns of the inputs, and their bytes: a table for each of ``parts``, in order."""
        names = (f"manifest/{part}.parquet" for part in parts)
        with contextlib.closing(self.folder.read_tables(names, sorted({*columns, "bytes"}))) as tables:
            for part, table in zip(parts, tables, strict=True):
                self._sizes[part] = _files_and_bytes(table)
                yield table

    def sizes(self, parts: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Files and bytes of each of ``parts``; those that were written or read before are not read again."""
        for _ in self.inputs([part for part in parts if part not in self._sizes], []):
            pass
        return {part: self._sizes[part] for part in parts}

    def progress(self, part: str) -> pa.Table:
        """Records of ``part`` that were written while it was worked on."""
        names = self.folder.names(f"progress/{part}")
        tables = [self.folder.read_table(f"progress/{part}/{name}") for name in names]
        return pa.concat_tables([RECORDS.empty_table(), *tables])

    def add_progress(self, part: str, records: pa.Table) -> None:
        """Write down ``records`` of a part that is being worked on."""
        # By time: an attempt that goes on where another one died writes behind it.
        self.folder.write_table(f"progress/{part}/{time.time_ns():020}.parquet", records)

    def drop_progress(self, part: str) -> None:
        """Remove what `add_progress` wrote."""
        for name in self.folder.names(f"progress/{part}"):
            self.folder.remove(f"progress/{part}/{name}")

    def stage(self, part: str, attempt: str, records: pa.Table) -> None:
        """Write the whole table of a part's records where an attempt has it published from."""
        failed = records.filter(pc.equal(records["status"], "failed"))
        if len(failed):
            self.folder.write_table(f"staged/{part}.{attempt}.failed.parquet", failed)
        self.folder.write_table(f"staged/{part}.{attempt}.parquet", records)

    def publish(self, part: str, attempt: str) -> bool:
        """Make what an attempt has staged the records of ``part``: with it the part is done.

        For the ledger alone, which does one thing at a time. May be called again where an answer was lost.

        Returns:
            False where another run of the job has begun, or has removed what was staged.
        """
        staged, failed = f"staged/{part}.{attempt}.parquet", f"staged/{part}.{attempt}.failed.parquet"
        if not self.is_current():
            return False
        try:
            records = self.folder.read(staged)
        except FileNotFoundError:
            return self.is_finished(part)
        if self.folder.exists(failed):
            self.folder.write(f"failed/{part}.parquet", self.folder.read(failed))
        else:
            self.folder.remove(f"failed/{part}.parquet")
        self.folder.write(f"records/{part}.parquet", records)
        # In this order: where only the first is gone, all above was done.
        self.folder.remove(staged)
        self.folder.remove(failed)
        return True

    def claim(self) -> str:
        """Begin a run: what another one, whose driver may still live somewhere, has not committed is void.

        Returns:
            Its name.
        """
        self.run = name_by_time()
        self.folder.write(_RUN, json.dumps({"run": self.run}).encode())
        self.drop_staged()
        return self.run

    def is_current(self) -> bool:
        """Whether no other run of the job has begun since the one that this is of."""
        if self.run is None:
            return True
        return bool(json.loads(self.folder.read(_RUN))["run"] == self.run)

    def drop_staged(self) -> None:
        """Remove what attempts left that lost their leases."""
        for name in self.folder.names("staged"):
            self.folder.remove(f"staged/{name}")

    def records(
        self, parts: Iterable[str], columns: Sequence[str] | None = None
    ) -> Generator[pa.Table, None, None]:
        """Records of finished parts, or these columns of them: one for each (uri, member)."""
        names = (f"records/{part}.parquet" for part in parts)
        wanted = None if columns is None else list(dict.fromkeys([*columns, *_KEY]))
        with contextlib.closing(self.folder.read_tables(names, wanted)) as tables:
            yield from map(unique, tables)

    def merge(
        self, size: int = _MERGED_BYTES, *, whole: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> int:
        """Write records of neighbouring parts together, since thousands of small tables are slow to read.

        The small ones stay: they say what is done. Whoever reads sees a merged table whole or not at all.

        Args:
            size: bytes of small tables that make a merged one; before an unfinished part they may be fewer.
            whole: leave those that would be smaller for later, while the job is still at work.
            stopped: asked now and then; once it says so, nothing more is written.

        Returns:
            How many tables were written.
        """
        written = 0
        for parts in self._neighbours(size, whole):
            sink = pa.BufferOutputStream()
            with (
                pq.ParquetWriter(sink, RECORDS, compression="zstd") as writer,
                contextlib.closing(self.records(parts)) as tables,
            ):
                for table in tables:
                    if stopped():
                        return written
                    writer.write_table(table)
            if not self.is_current():  # whose driver may have begun to do them again
                return written
            self.folder.write(f"merged/{parts[0]}..{parts[-1]}.parquet", sink.getvalue().to_pybytes())
            written += 1
        return written

    def _neighbours(self, size: int, whole: bool) -> Iterator[list[str]]:
        """Finished parts whose records are to be merged, each time two or more in a row."""
        sizes = {name.removesuffix(".parquet"): n for name, n in self.folder.sizes("records").items()}
        free = sizes.keys() - covered(self.folder.names("merged"))
        for is_free, run in itertools.groupby(self.parts(), free.__contains__):
            group: list[str] = []
            for part in run if is_free else ():
                group.append(part)
                if len(group) > 1 and sum(map(sizes.__getitem__, group)) >= size:
                    yield group
                    group = []
            if len(group) > 1 and not whole:
                yield group

    def _drop_merged(self, part: str) -> None:
        """Remove what holds records of ``part`` that will be others."""
        for name in self.folder.names("merged"):
            if part in covered([name]):
                self.folder.remove(f"merged/{name}")

    def runs(self) -> Iterator[dict[str, Any]]:
        """What each run of the job used, as its driver wrote it last: "deaths", and for each of "actors" the
        seconds that it was there, the seconds of audio that it computed, and its kind."""
        for name in self.folder.names("runs"):
            yield json.loads(self.folder.read(f"runs/{name}"))

    def reopen_failed(self) -> int:
        """Make what failed part of what is to be done; returns how many files that is."""
        count = 0
        done = self.finished()
        for name in self.folder.names("failed"):
            part = name.removesuffix(".parquet")
            if part not in done:
                continue
            records = self.folder.read_table(f"records/{name}")
            good = records.filter(pc.not_equal(records["status"], "failed"))
            self._drop_merged(part)
            self.drop_progress(part)
            if len(good):
                self.add_progress(part, good)
            # From here on the part is unfinished. A kill before leaves it finished, with its failures.
            self.folder.remove(f"records/{name}")
            self.folder.remove(f"failed/{name}")
            count += len(records) - len(good)
        return count


@dataclass(frozen=True, slots=True)
class Publisher:
    """`JobState.publish` of a run, to be sent to its ledger; asks a storage that fails but once, since nobody
    else is heard meanwhile."""

    output: str
    job: str
    run: str

    def __call__(self, part: str, attempt: str) -> bool:
        return JobState(self.output, self.job, 0.0, self.run).publish(part, attempt)


def unique(records: pa.Table) -> pa.Table:
    """One of ``records`` for each (uri, member): the last that was written, in the order of writing."""
    numbered = records.select(_KEY).append_column("row", pa.array(range(len(records)), pa.int64()))
    last = numbered.group_by(list(_KEY)).aggregate([("row", "max")])["row_max"]
    return records if len(last) == len(records) else records.take(np.sort(last.to_numpy()))


def _files_and_bytes(inputs: pa.Table) -> tuple[int, int]:
    return len(inputs), pc.sum(inputs["bytes"]).as_py() or 0


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def name_by_time() -> str:
    """Of a job or a run: it sorts by its beginning, and is nobody else's."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
