"""Restoration as a step of a Ray Data pipeline: recordings in a column, and restored ones in their place.

    recordings = read_recordings("s3://archive/shows/**/*.mp3")
    restored = restore(recordings, EnhanceOptions(loudness=-16), actors=(1, 8), num_gpus=1)
    restored.map_batches(Transcribe, ...).drop_columns("audio").write_parquet("s3://archive/texts")

A dataset keeps its columns and gets those of `RESTORED`. Recordings move through Ray's object store as the
bytes of their files: for a whole archive a bulk job is better, which opens long recordings where they are and
goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from enhance_ray.audio import Patience
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk import inputs, shards
from enhance_ray.cluster.bulk.names import path_of
from enhance_ray.cluster.bulk.plan import whole_name, with_extension
from enhance_ray.cluster.session import path_for_workers
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioReadError, ConfigError, explain
from enhance_ray.files import Job, enhance_files, output_extension
from enhance_ray.records import Record
from enhance_ray.settings.options import EnhanceOptions, Precision, refuse_all_tracks
from enhance_ray.settings.ranges import CountOrRange, both

AUDIO = "audio"
"""The column of recordings: the bytes of a file each, or a struct of "bytes" and "path" as others have it."""
NAMES = "uri"
"""The column of their names, of which the extension says how a recording is to be written."""

RESTORED = pa.schema(
    [
        ("status", pa.string()),  # "done" or "failed"
        ("code", pa.string()),  # the error's word for programs, see `enhance_ray.errors`
        ("reason", pa.string()),  # its sentence for people
        ("warning", pa.string()),
        ("seconds", pa.float64()),
        ("sample_rate", pa.int32()),  # of the input, Hz
        ("channels", pa.int32()),
        ("loudness_in", pa.float32()),  # LUFS
        ("loudness_out", pa.float32()),
        ("extension", pa.string()),  # of the restored file, with its dot
    ]
)
"""Columns that `Restore` adds; the audio of what failed is null."""

_PATIENCE = 120.0
_FILES_PER_BLOCK = 64


def read_recordings(source: str, *, at_once: int = 8) -> Dataset:
    """The recordings in ``source``, with columns "uri", "bytes", "etag", "last_modified" and "audio".

    One that cannot be read has no audio, and a "reason".

    Args:
        source: a prefix or folder, a glob, a manifest or an inventory, as for a bulk job.
        at_once: recordings that a task reads into memory at once.

    Raises:
        ConfigError: the input does not exist, cannot be listed, or holds no audio.
    """
    columns = ["uri", "bytes", "etag", "last_modified"]
    pages = [page.select(columns) for page in inputs.pages(source) if len(page)]
    if not pages:
        raise ConfigError(source, "no audio was found in it")
    listed = pa.concat_tables(pages)
    blocks = [listed.slice(start, _FILES_PER_BLOCK) for start in range(0, len(listed), _FILES_PER_BLOCK)]
    return ray.data.from_arrow(blocks).map_batches(_read, batch_size=at_once, batch_format="pyarrow")


def _read(batch: pa.Table) -> pa.Table:
    patience = Patience(_PATIENCE)
    contents: list[bytes | None] = []
    reasons: list[str | None] = []
    for uri in batch[NAMES].to_pylist():
        try:
            filesystem, name = fsspec.url_to_fs(path_of(uri))
            contents.append(patience(lambda: filesystem.cat_file(name)))  # noqa: B023 - called at once
            reasons.append(None)
        except FILE_ERRORS as error:
            contents.append(None)
            reasons.append(explain(error))
    batch = batch.append_column(AUDIO, pa.array(contents, pa.large_binary()))
    return batch.append_column("reason", pa.array(reasons, pa.string()))


def restore(
    dataset: Dataset,
    options: EnhanceOptions | None = None,
    *,
    model: str = "default",
    column: str = AUDIO,
    actors: CountOrRange = 1,
    batch_size: int = 8,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    precision: Precision = "auto",
) -> Dataset:
    """``dataset`` with its recordings restored, by a pool of actors that hold the model.

    Args:
        dataset: with recordings in ``column``, and names in "uri" if they have some.
        options: what is done; the defaults of `EnhanceOptions` if None.
        model: as `Enhancer.load` takes it; nodes must be able to read it.
        column: of the recordings.
        actors: how many, or [least, most].
        batch_size: recordings that an actor has at once; their segments run as batches of the model.
        num_cpus: of an actor.
        num_gpus: of an actor.
        precision: of the model.

    Raises:
        ConfigError: an option is none for a pipeline.
    """
    options = options or EnhanceOptions()
    refuse_all_tracks(options, "pipelines")
    least, most = both(actors)
    settings = {
        "options": options,
        "model": path_for_workers(model) if Path(model).exists() else model,
        "column": column,
        "precision": precision,
    }
    return dataset.map_batches(
        Restore,
        fn_constructor_kwargs=settings,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


class Restore:
    """The model in an actor, for `Dataset.map_batches` with batch_format="pyarrow"."""

    def __init__(
        self,
        options: EnhanceOptions | None = None,
        *,
        model: str = "default",
        column: str = AUDIO,
        precision: Precision = "auto",
        load: Callable[..., Enhancer] = Enhancer.load,
    ) -> None:
        """Load the model; arguments are those of `restore`.

        Raises:
            CheckpointError: the model cannot be used.
            ConfigError: it cannot do what the options ask for.
        """
        self._options = options or EnhanceOptions()
        self._column = column
        self._enhancer = load(model, precision=precision, denoiser_only=self._options.mode == "denoise")
        self._enhancer.check(self._options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Restore a batch of recordings; one that cannot be restored has a reason instead of audio."""
        with tempfile.TemporaryDirectory(prefix="enhance-ray-batch-") as folder:
            answers = list(self._restored(batch, Path(folder)))
        place = batch.column_names.index(self._column)
        contents = pa.array([content for _, content, _ in answers], pa.large_binary())
        batch = batch.set_column(place, self._column, contents)
        added = [{**dataclasses.asdict(record), "extension": extension} for record, _, extension in answers]
        for field in RESTORED:
            if field.name in batch.column_names:
                batch = batch.drop_columns(field.name)
            batch = batch.append_column(field, pa.array([row[field.name] for row in added], field.type))
        return batch

    def _restored(self, batch: pa.Table, folder: Path) -> Iterator[tuple[Record, bytes | None, str | None]]:
        rows = batch.to_pylist()
        jobs: dict[int, Job] = {}
        for number, row in enumerate(rows):
            content, name = _content(row[self._column]), _name(row, self._column)
            if content is None:
                continue
            source = folder / f"in-{number}{PurePosixPath(name).suffix}"
            source.write_bytes(content)
            target = folder / f"out-{number}{output_extension(name or '.wav', self._options.format)}"
            jobs[number] = Job(str(source), str(target))
        found = {
            record.input: record
            for record in enhance_files(list(jobs.values()), self._enhancer, self._options)
        }
        for number, row in enumerate(rows):
            if number not in jobs:
                reason = row.get("reason") or "it is null"
                yield Record(input="", status="failed", code=AudioReadError.code, reason=reason), None, None
                continue
            record = found[jobs[number].input]
            if record.status != "done" or record.output is None:
                yield record, None, None
            else:
                output = Path(record.output)
                yield record, output.read_bytes(), output.suffix


def write_recordings(dataset: Dataset, output: str, *, column: str = AUDIO) -> Dataset:
    """``dataset`` with its recordings written to files, whose URIs take the place of the audio in "output".

    Like all of a dataset this is done when something asks for its rows, such as `write_parquet`.

    Args:
        dataset: that `restore` gave, with names in "uri".
        output: prefix or folder. A file has the name of its recording without protocol; where the format
            changes, the extension is added.
        column: of the recordings.
    """
    write = functools.partial(_write, output=output.rstrip("/"), column=column)
    return dataset.map_batches(write, batch_format="pyarrow")


def _write(batch: pa.Table, *, output: str, column: str) -> pa.Table:
    uris: list[str | None] = []
    with tempfile.TemporaryDirectory(prefix="enhance-ray-batch-") as folder:
        for row in batch.to_pylist():
            if row[column] is None:
                uris.append(None)
                continue
            name = with_extension(whole_name(path_of(row[NAMES])), row["extension"])
            target = f"{output}/{name}"
            file = Path(folder) / f"file{row['extension']}"
            file.write_bytes(row[column])
            shards.publish(file, target, Patience(_PATIENCE))
            uris.append(target)
    return batch.drop_columns(column).append_column("output", pa.array(uris, pa.string()))


def _content(value: Any) -> bytes | None:
    content: bytes | None = value.get("bytes") if isinstance(value, dict) else value
    return content


def _name(row: dict[str, Any], column: str) -> str:
    value = row[column]
    path = value.get("path") if isinstance(value, dict) else None
    return str(row.get(NAMES) or path or "")
