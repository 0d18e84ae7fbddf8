"""Planning: what a job's input holds, as parts of a manifest on the storage.

    input -> listing, in order, a page at a time -> what no part holds yet -> parts

Memory depends on the pages under way and on 16 bytes for each input that is known, not on names. A second run
adds what is new: objects that were not there, and objects whose etag has changed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from enhance_ray import audio
from enhance_ray.audio import is_remote
from enhance_ray.audio.storage import FILE_ERRORS, explain
from enhance_ray.cluster.bulk.listing import Entry, entries, glob_base, is_glob, is_manifest, paged
from enhance_ray.cluster.bulk.names import storable
from enhance_ray.cluster.bulk.seen import Seen, digests_of
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import MANIFEST, JobState
from enhance_ray.errors import ConfigError

_PARTS_PER_ACTOR = 8
_LOOK_AHEAD = 100_000  # inputs whose number decides how small parts are


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning did."""

    listed: int
    """Inputs found."""
    added: int
    """Of them, new or changed."""
    parts: int
    """New parts of the manifest."""


def plan(
    settings: BulkConfig, state: JobState, progress: Callable[[int, int], None] | None = None
) -> Planned:
    """List the input, and add to the manifest what is not in it.

    Args:
        settings: of the job.
        state: of the job.
        progress: called with (listed, added) after every part.

    Raises:
        ConfigError: the input does not exist, cannot be listed, is no manifest, or holds no audio.
    """
    parts = state.parts()
    known = Seen()
    for table in state.folder.read_tables([f"manifest/{part}.parquet" for part in parts], ["uri", "etag"]):
        known.add(digests_of(zip(*(column.to_pylist() for column in table.columns), strict=True)))
    listed = added = 0
    number = 1 + max((int(part.removeprefix("part-")) for part in parts), default=-1)
    first = number

    def fresh() -> Iterator[Entry]:
        nonlocal listed
        for page in paged(entries(settings), 1000):
            listed += len(page)
            yield from itertools.compress(page, known.add(digests_of((e.uri, e.etag) for e in page)))

    try:
        for part in _parts(fresh(), settings):
            table = pa.Table.from_pylist([entry._asdict() for entry in part], MANIFEST)
            state.folder.write_table(f"manifest/part-{number:05d}.parquet", table)
            number += 1
            added += len(part)
            if progress is not None:
                progress(listed, added)
    except FILE_ERRORS as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(settings.input, f"cannot be listed: {explain(error)}") from error
    if not listed:
        raise ConfigError(settings.input, "no audio was found in it")
    return Planned(listed, added, number - first)


def output_of(settings: BulkConfig, uri: str, etag: str | None, given: str | None, extension: str) -> str:
    """Where the output of an input goes: a function of its row alone, so that no listing changes it.

    No two inputs share an output: where the extension changes, it is added to the name, and also where a name
    looks as if that had been done.

    Args:
        settings: of the job.
        uri: of the input, as its storage has it.
        etag: of the input, for the layout "content".
        given: what a manifest says: an absolute path or URI, or a name below the output.
        extension: with its dot, of the output's format.
    """
    root = settings.output.rstrip("/")
    if given:
        return given if is_remote(given) or given.startswith("/") else f"{root}/{given}"
    if settings.layout == "content":
        digest = hashlib.sha256(f"{storable(uri)}\n{etag or ''}".encode()).hexdigest()
        return f"{root}/{digest[:2]}/{digest[2:4]}/{digest}{extension}"
    name = _relative(settings.input, uri)
    path = PurePosixPath(name)
    if path.suffix.lower() != extension or audio.is_known(path.stem):
        name += extension
    return f"{root}/{name}"


def _relative(source: str, uri: str) -> str:
    """``uri`` without what all inputs share: the prefix; for a manifest, the protocol."""
    if not is_manifest(source):
        base = glob_base(source) if is_glob(source) else source
        below = uri.removeprefix(f"{base.rstrip('/')}/")
        return below if below != uri else PurePosixPath(uri).name
    return uri.partition("://")[2] if is_remote(uri) else uri.lstrip("/")


def _parts(found: Iterator[Entry], settings: BulkConfig) -> Iterator[list[Entry]]:
    """Inputs in groups of the size that suits the job."""
    first = list(itertools.islice(found, _LOOK_AHEAD))
    most_files, most_bytes = settings.files_per_part, settings.gigabytes_per_part * 1e9
    if len(first) < _LOOK_AHEAD:  # all of them: every actor shall get its share
        shares = _PARTS_PER_ACTOR * settings.actor_range[1]
        total = sum(entry.bytes or 0 for entry in first)
        most_files = min(most_files, -(-len(first) // shares))
        most_bytes = min(most_bytes, max(-(-total // shares), max((e.bytes or 0 for e in first), default=0)))
    part: list[Entry] = []
    size = 0
    for entry in itertools.chain(first, found):
        if part and (len(part) >= most_files or size + (entry.bytes or 0) > most_bytes):
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.bytes or 0
    if part:
        yield part
