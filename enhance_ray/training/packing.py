"""`enhance-ray corpus pack`: many recordings into few shards, which storage and network like better.

    recordings -> shards of about one size -> shard-00000-DIGEST.tar and its index -> manifest.parquet

A shard's name depends on what goes into it: a second run writes what is missing, and nothing twice. A
recording that fits stays as it is, byte for byte; a longer one is cut into pieces of FLAC, so that a reader
need not decode an hour for three seconds.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import fsspec
import numpy as np
import soundfile
from annotated_types import Ge

from enhance_ray import audio
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.errors import AudioError, ConfigError, explain
from enhance_ray.settings.ranges import Count, Positive
from enhance_ray.settings.schema import settings
from enhance_ray.training.parallel import Progress, parallel_map
from enhance_ray.training.sources import MANIFEST_NAME, Source, list_sources, parquet
from enhance_ray.training.splits import Split


@settings
class PackConfig:
    """How shards are made."""

    format: Literal["tar", "parquet"] = "tar"
    """WebDataset's tar, or Parquet with the recordings' bytes in the column "audio"."""
    shard_megabytes: Positive = 256.0
    """About how large a shard is."""
    max_seconds: Annotated[float, Ge(1)] = 30.0
    """Longer recordings are cut into pieces of at most this length."""
    held_out_every: Count = 8
    """One in so many recordings is for validation where the input names no split."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """What became of a corpus."""

    shards: int
    written: int
    """Of the shards; the others were there already."""
    clips: int
    seconds: float
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Recordings that cannot be used, and why."""


def pack(
    source: str,
    target: str,
    config: PackConfig | None = None,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> PackReport:
    """Write the recordings of ``source`` as shards into ``target``, with a manifest beside them.

    Args:
        source: folder, list or shard, see `sources`; local or a URI.
        target: folder, local or a URI; what is in it from an earlier run is used.
        config: how.
        workers: processes; 1 does it in this one.
        progress: called with (shards done, shards in all).

    Raises:
        ConfigError: there is nothing to pack, or the target cannot be written.
    """
    config = config or PackConfig()
    plan = _plan(source, config)
    filesystem, root = fsspec.url_to_fs(target)
    filesystem.makedirs(root, exist_ok=True)
    # A bucket has no folders: an empty one does not exist.
    present = {PurePosixPath(name).name for name in filesystem.glob(f"{root}/*.index.jsonl")}
    todo = [shard for shard in plan if f"{shard.name}.index.jsonl" not in present]
    write = functools.partial(_write_shard, target=target.rstrip("/"), config=config)
    try:
        parallel_map(write, todo, workers, progress)
        rows, failed = _collect(plan, target.rstrip("/"), config.format)
        _write_manifest(f"{target.rstrip('/')}/{MANIFEST_NAME}", rows)
    except FILE_ERRORS as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(target, f"cannot be written: {explain(error)}") from error
    seconds = sum(row["seconds"] for row in rows)
    return PackReport(len(plan), len(todo), len(rows), seconds, failed)


@dataclass(frozen=True, slots=True)
class _Shard:
    number: int
    members: tuple[tuple[Source, Split], ...]

    @property
    def name(self) -> str:
        digest = hashlib.sha256()
        for source, split in self.members:
            digest.update(f"{source.name}|{source.group}|{split}\n".encode())
        return f"shard-{self.number:05d}-{digest.hexdigest()[:12]}"


def _plan(source: str, config: PackConfig) -> list[_Shard]:
    """Every recording in the order of its name; a shard is full when its inputs reach the size."""
    splits: tuple[Split, ...] = ("train", "valid")
    entries = [
        (found, split) for split in splits for found in _of_split(source, split, config.held_out_every)
    ]
    if not entries:
        raise ConfigError(source, "no recordings found")
    entries.sort(key=lambda entry: (entry[0].path, entry[0].place or (0, 0)))
    sizes = _sizes([entry[0] for entry in entries])
    shards: list[list[tuple[Source, Split]]] = [[]]
    filled = 0.0
    for entry, size in zip(entries, sizes, strict=True):
        if filled >= config.shard_megabytes * 1e6:
            shards.append([])
            filled = 0.0
        shards[-1].append(entry)
        filled += size
    return [_Shard(number, tuple(members)) for number, members in enumerate(shards)]


def _of_split(source: str, split: Split, held_out_every: int) -> list[Source]:
    try:
        return list_sources(source, ["."], split, held_out_every)
    except ConfigError as error:
        if "recordings found" in error.reason:
            return []
        raise


def _sizes(sources: Sequence[Source]) -> list[int]:
    """Bytes of each recording, without asking a storage once for each."""
    known: dict[str, int] = {}
    for folder in {source.path.rpartition("/")[0] for source in sources if source.place is None}:
        filesystem, root = fsspec.url_to_fs(folder or ".")
        for entry in filesystem.ls(root, detail=True):
            known[f"{folder}/{PurePosixPath(entry['name']).name}"] = int(entry.get("size") or 0)
    return [
        source.place[1] if source.place and source.path.endswith(".tar") else known.get(source.path, 0)
        for source in sources
    ]


def _write_shard(shard: _Shard, *, target: str, config: PackConfig) -> None:
    """The shard, and after it the index that makes it count."""
    rows: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    path = f"{target}/{shard.name}.{config.format}"

    def clips() -> Iterator[tuple[dict[str, Any], bytes]]:
        for source, split in shard.members:
            try:
                for number, (content, suffix, seconds) in enumerate(_clips(source, config.max_seconds)):
                    name = f"{_key(source)}-{number:05d}{suffix}"
                    facts = {"name": name, "origin": source.name, "speaker": source.group, "split": split}
                    yield {**facts, "seconds": seconds}, content
            except AudioError as error:
                failed.append((source.name, error.reason))

    write = _write_tar if config.format == "tar" else _write_parquet
    with fsspec.open(path, "wb") as file:
        rows += write(file, clips())
    with fsspec.open(f"{target}/{shard.name}.index.jsonl", "wt", encoding="utf-8") as index:
        for row in rows:
            index.write(json.dumps(row) + "\n")
        for name, reason in failed:
            index.write(json.dumps({"origin": name, "failed": reason}) + "\n")


def _key(source: Source) -> str:
    """A short name of letters and digits, as tar and WebDataset like it; unlike for unlike recordings."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(source.path).stem)[:40]
    return f"{stem}-{hashlib.sha256(source.name.encode()).hexdigest()[:8]}"


def _clips(source: Source, max_seconds: float) -> Iterator[tuple[bytes, str, float]]:
    """A recording as it is, or its pieces; every one is decoded once, so that no damaged one passes."""
    data = source.content()
    with audio.decode(source.name, data=data) if data else audio.decode(source.path) as decoder:
        rate = decoder.info.sample_rate
        longest = int(max_seconds * rate)
        pieces: list[np.ndarray] = []
        waiting, is_cut = 0, False
        for block in decoder:
            pieces.append(block)
            waiting += block.shape[1]
            while waiting > longest:
                joined = np.concatenate(pieces, axis=1)
                yield _flac(joined[:, :longest], rate), ".flac", longest / rate
                pieces, waiting, is_cut = [joined[:, longest:]], waiting - longest, True
        if is_cut:
            yield _flac(np.concatenate(pieces, axis=1), rate), ".flac", waiting / rate
            return
    if data is None:
        with fsspec.open(source.path, "rb") as file:
            yield file.read(), PurePosixPath(source.path).suffix.lower(), waiting / rate
    else:
        yield data, _suffix_of(data), waiting / rate


def _suffix_of(data: bytes) -> str:
    """Of a recording that comes out of a shard: decoders go by content, names are for people."""
    heads = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
    return heads.get(data[:4], ".mp3")


def _flac(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _write_tar(file: Any, clips: Iterator[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
    rows = []
    position = 0
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for facts, content in clips:
            member = tarfile.TarInfo(facts["name"])
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            # Header and content are padded to blocks of 512 bytes each.
            rows.append({**facts, "offset": position + 512, "size": len(content)})
            position += 512 + -(-len(content) // 512) * 512
    return rows


_ROWS_PER_GROUP = 16
"""Recordings that a reader gets at once."""


def _write_parquet(file: Any, clips: Iterator[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
    parquet()
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    text = ("name", "origin", "speaker", "split")
    fields = [*((name, pa.string()) for name in text), ("seconds", pa.float64()), ("audio", pa.binary())]
    schema = pa.schema(fields)
    rows: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    group = 0
    # Compressing compressed audio costs time and saves nothing.
    with ParquetWriter(file, schema, compression="none") as writer:
        for facts, content in clips:
            rows.append({**facts, "row_group": group, "row": len(waiting)})
            waiting.append({**facts, "audio": content})
            if len(waiting) == _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, schema), row_group_size=_ROWS_PER_GROUP)
                waiting, group = [], group + 1
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
    return rows


def _collect(
    plan: Sequence[_Shard], target: str, suffix: str
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    rows: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    for shard in plan:
        with fsspec.open(f"{target}/{shard.name}.index.jsonl", "rt", encoding="utf-8") as index:
            for line in index:
                row = json.loads(line)
                if "failed" in row:
                    failed.append((row["origin"], row["failed"]))
                else:
                    rows.append({"file": f"{shard.name}.{suffix}", **row})
    if not rows:
        raise ConfigError(target, f"none of the {len(failed)} recordings can be used: {failed[0][1]}")
    return rows, failed


def _write_manifest(path: str, rows: Sequence[dict[str, Any]]) -> None:
    parquet_module = parquet()
    import pyarrow as pa

    with fsspec.open(path, "wb") as file:
        parquet_module.write_table(pa.Table.from_pylist(list(rows)), file)
