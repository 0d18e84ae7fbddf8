"""A job's memory, on the storage of its output: what is planned, what is done, for whom.

    OUTPUT/_enhance_ray/job.json                                 which job the outputs belong to
    OUTPUT/_enhance_ray/JOB/manifest/part-00000.parquet          inputs; later runs add parts, none is changed
    OUTPUT/_enhance_ray/JOB/progress/part-00000/....parquet      records of a part that is being worked on
    OUTPUT/_enhance_ray/JOB/records/part-00000.parquet           its records, when it is done
    OUTPUT/_enhance_ray/JOB/failed/part-00000.parquet            those of them that failed
    OUTPUT/_enhance_ray/JOB/report.html, report.json

Every file is written at once, and is there or not; a part's table of records is its commit. So a run that
begins anew learns from names alone what is left: a million records are a thousand names.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from enhance_ray import __version__, config
from enhance_ray.audio.storage import FILE_ERRORS, explain
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.folder import STORAGE_PATIENCE, Folder
from enhance_ray.errors import ConfigError

FOLDER = "_enhance_ray"
"""Where a job's own files are, below its output."""

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
"""Columns of a table of records: those of `report.Record`, and where the work was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What decides the sound: outputs of one job have one."""

    model: str
    """Fingerprint of the weights."""
    options: dict[str, Any]
    code: str
    """Version of this package."""

    @classmethod
    def of(cls, settings: BulkConfig, model: str) -> Self:
        """That of a job with these settings and the model of that fingerprint."""
        options = {**config.to_tree(settings.options), "layout": settings.layout, "partial": settings.partial}
        return cls(model=model, options=options, code=__version__)

    def difference(self, other: Fingerprint) -> str:
        """What is not as in ``other``, for people; empty where all is."""
        parts = []
        if self.model != other.model:
            parts.append(f"model {other.model} -> {self.model}")
        for name in {**other.options, **self.options}:
            before, now = other.options.get(name), self.options.get(name)
            if before != now:
                parts.append(f"{name} {before} -> {now}")
        if self.code != other.code:
            parts.append(f"version {other.code} -> {self.code}")
        return ", ".join(parts)


class JobState:
    """What is known of one job."""

    def __init__(self, output: str, job: str, patience: float = STORAGE_PATIENCE) -> None:
        """Name it; `open_job` finds or begins one. ``patience`` is for a storage that fails, in seconds."""
        self.job = job
        self.folder = Folder(f"{output.rstrip('/')}/{FOLDER}/{job}", patience)

    def parts(self) -> list[str]:
        """All parts of the manifest, by name without extension."""
        return [name.removesuffix(".parquet") for name in self.folder.names("manifest") if _is_part(name)]

    def finished(self) -> set[str]:
        """Parts whose records are complete."""
        return {name.removesuffix(".parquet") for name in self.folder.names("records")}

    def is_finished(self, part: str) -> bool:
        """Whether the records of ``part`` are complete."""
        return self.folder.exists(f"records/{part}.parquet")

    def manifest(self, part: str) -> pa.Table:
        """Inputs of ``part``."""
        return self.folder.read_table(f"manifest/{part}.parquet")

    def progress(self, part: str) -> pa.Table:
        """Records of ``part`` that were written while it was worked on."""
        names = self.folder.names(f"progress/{part}")
        tables = [self.folder.read_table(f"progress/{part}/{name}") for name in names]
        return pa.concat_tables([RECORDS.empty_table(), *tables])

    def add_progress(self, part: str, records: pa.Table) -> None:
        """Write down ``records`` of a part that is being worked on."""
        # By time: an attempt that goes on where another one died writes behind it.
        self.folder.write_table(f"progress/{part}/{time.time_ns():020}.parquet", records)

    def commit(self, part: str, records: pa.Table) -> None:
        """Write the whole table of a part's records: with it the part is done."""
        failed = records.filter(pc.equal(records["status"], "failed"))
        if len(failed):
            self.folder.write_table(f"failed/{part}.parquet", failed)
        else:
            self.folder.remove(f"failed/{part}.parquet")
        self.folder.write_table(f"records/{part}.parquet", records)
        self._drop_progress(part)

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
            self._drop_progress(part)
            if len(good):
                self.add_progress(part, good)
            # From here on the part is unfinished. A kill before leaves it finished, with its failures.
            self.folder.remove(f"records/{name}")
            self.folder.remove(f"failed/{name}")
            count += len(records) - len(good)
        return count

    def _drop_progress(self, part: str) -> None:
        for name in self.folder.names(f"progress/{part}"):
            self.folder.remove(f"progress/{part}/{name}")


def _is_part(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def open_job(settings: BulkConfig, fingerprint: Fingerprint, *, new: bool = False) -> JobState:
    """The job that the outputs at ``settings.output`` belong to; begins one where there is none.

    Args:
        settings: of the job.
        fingerprint: of what it does.
        new: begin one in any case. Outputs of the old one are replaced as the new one goes on.

    Raises:
        ConfigError: the outputs are those of a job with another fingerprint, or the storage cannot be used.
    """
    folder = Folder(f"{settings.output.rstrip('/')}/{FOLDER}")
    try:
        found = None if new else _read_job(folder)
        if found is None:
            job = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
            tree = {"format": 1, "job": job, "input": settings.input}
            tree["fingerprint"] = config.to_tree(fingerprint)
            folder.write("job.json", json.dumps(tree, indent=2).encode())
            return JobState(settings.output, job, settings.patience_seconds)
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(settings.output, f"cannot be used: {explain(error)}") from error
    job, source, before = found
    if source.rstrip("/") != settings.input.rstrip("/"):
        raise ConfigError(settings.output, f"belongs to a job whose input is {source}; --new-job replaces it")
    if difference := fingerprint.difference(before):
        raise ConfigError(
            settings.output,
            f"holds outputs of a job with other settings ({difference}): choose another place, "
            "or --new-job, which does all files again",
        )
    return JobState(settings.output, job, settings.patience_seconds)


def _read_job(folder: Folder) -> tuple[str, str, Fingerprint] | None:
    where = f"{folder.uri}/job.json"
    try:
        tree = json.loads(folder.read("job.json"))
        fingerprint = config.from_tree(Fingerprint, tree["fingerprint"], where=where)
        return str(tree["job"]), str(tree["input"]), fingerprint
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(where, f"is damaged: {explain(error)}") from error
