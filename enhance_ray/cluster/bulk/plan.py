"""Planning: what a job's input holds, as parts of a manifest on the storage.

    input -> listing, in order, a page at a time -> what no part holds yet -> parts

Memory depends on the pages under way and on 16 bytes for each input that is known, not on names. A second run
adds what is new: objects that were not there, and objects whose etag has changed.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from enhance_ray import audio
from enhance_ray.audio import Patience, is_remote, lists
from enhance_ray.audio.storage import FILE_ERRORS, explain
from enhance_ray.cluster.bulk.names import storable
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import MANIFEST, JobState
from enhance_ray.errors import ConfigError

SHARD_EXTENSIONS = (".tar", ".parquet")
"""Objects that hold recordings: WebDataset's tar, and Parquet with a column "audio"."""

_WILD = "*?["
_MANIFESTS = (".parquet", *lists.TABLES)
_IGNORED = "manifest.parquet"  # beside shards, as `enhance-ray corpus pack` writes it
_PARTS_PER_ACTOR = 8
_LOOK_AHEAD = 100_000  # inputs whose number decides how small parts are
_PATIENCE = 120.0


class Entry(NamedTuple):
    """One input."""

    uri: str
    """As `names.storable` has it."""
    bytes: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    output: str | None = None
    extra: str | None = None


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
    known = _Seen()
    for table in state.folder.read_tables([f"manifest/{part}.parquet" for part in parts], ["uri", "etag"]):
        known.add(_digests(zip(*(column.to_pylist() for column in table.columns), strict=True)))
    listed = added = 0
    number = 1 + max((int(part.removeprefix("part-")) for part in parts), default=-1)
    first = number

    def fresh() -> Iterator[Entry]:
        nonlocal listed
        for page in _paged(entries(settings), 1000):
            listed += len(page)
            yield from itertools.compress(page, known.add(_digests((e.uri, e.etag) for e in page)))

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


def entries(settings: BulkConfig) -> Iterator[Entry]:
    """The inputs of a job, in an order that depends on them alone.

    Raises:
        ConfigError: the input does not exist or is no manifest.
    """
    source = settings.input
    if _is_manifest(source):
        yield from _manifest_entries(source)
        return
    avoided = storable(f"{settings.output.rstrip('/')}/")
    for entry in _listed_entries(source, settings.listing_threads):
        name = PurePosixPath(entry.uri).name
        is_input = audio.is_known(name) or (name.endswith(SHARD_EXTENSIONS) and name != _IGNORED)
        if is_input and not name.startswith(".") and not entry.uri.startswith(avoided):
            yield entry


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
    if not _is_manifest(source):
        base = _glob_base(source) if _is_glob(source) else source
        below = uri.removeprefix(f"{base.rstrip('/')}/")
        return below if below != uri else PurePosixPath(uri).name
    return uri.partition("://")[2] if is_remote(uri) else uri.lstrip("/")


# --------------------------------------------------------------------------- manifests of the user's


def _manifest_entries(path: str) -> Iterator[Entry]:
    seen = _Seen()
    number = 0
    for page in _paged(_rows(path), 1000):
        found = []
        for row in page:
            number += 1
            found.append(_entry(row, f"{path}: row {number}", is_stored=path.endswith(".parquet")))
        # A recording that is listed twice is one recording.
        yield from itertools.compress(found, seen.add(_digests((entry.uri, entry.etag) for entry in found)))


def _rows(path: str) -> Iterator[dict[str, Any]]:
    try:
        if path.endswith(".parquet"):
            with fsspec.open(path, "rb") as file:
                table = pq.ParquetFile(file)
                if "uri" not in table.schema_arrow.names and "audio" in table.schema_arrow.names:
                    yield {"uri": path}  # a shard, not a manifest
                    return
                for batch in table.iter_batches(1000):
                    yield from batch.to_pylist()
        else:
            yield from lists.read_rows(path, Entry._fields)
    except (ValueError, pa.ArrowException) as error:
        raise ConfigError(path, f"is no readable manifest: {explain(error)}") from error
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(path, f"cannot be read: {explain(error)}") from error


def _entry(row: Any, where: str, *, is_stored: bool = False) -> Entry:
    """Of a row of the user's; what stands in Parquet, such as in records, is as tables hold it."""
    if not isinstance(row, dict) or not isinstance(row.get("uri"), str) or not row["uri"]:
        raise ConfigError(where, 'expected a column "uri" with text in it')
    if not is_stored:
        row = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
    extra = {name: value for name, value in row.items() if name not in Entry._fields and value is not None}
    size = row.get("bytes")
    try:
        size = None if size in (None, "") else int(size)
        modified = row.get("last_modified") or None
        modified = datetime.fromisoformat(modified) if isinstance(modified, str) else modified
    except (ValueError, TypeError) as error:
        raise ConfigError(where, f"bytes must be a whole number, last_modified ISO 8601: {error}") from error
    return Entry(
        uri=row["uri"],
        bytes=size,
        # Without one, the time tells a changed object from an unchanged one.
        etag=row.get("etag") or (modified.isoformat() if modified else None),
        last_modified=modified,
        output=row.get("output") or None,
        extra=json.dumps(extra, ensure_ascii=False, default=str, sort_keys=True) if extra else None,
    )


# --------------------------------------------------------------------------- listing


def _listed_entries(source: str, threads: int) -> Iterator[Entry]:
    try:
        yield from _listed(source, threads)
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(source, f"cannot be listed: {explain(error)}") from error


def _listed(source: str, threads: int) -> Iterator[Entry]:
    is_glob = _is_glob(source)
    base = _glob_base(source) if is_glob else source.rstrip("/")
    filesystem, root = fsspec.url_to_fs(base)
    filesystem.invalidate_cache()
    patience = Patience(_PATIENCE)
    if not is_glob and patience(lambda: filesystem.isfile(root)):
        yield _found(base, root, patience(lambda: filesystem.info(root)))
        return
    # A bucket's prefix exists if something is below it; that is seen when nothing was found.
    lister: _S3Pages | _FolderPages
    lister = (_S3Pages if hasattr(filesystem, "call_s3") else _FolderPages)(filesystem, patience)
    pattern = None
    if is_glob:
        protocol_free = fsspec.core.strip_protocol(source)
        pattern = re.compile(glob_translate(protocol_free if isinstance(protocol_free, str) else source))
    for page in _in_order(lister.units(root.rstrip("/")), lister.pages, threads):
        for name, info in page:
            if pattern is None or pattern.match(name):
                yield _found(base, root, info, name)


def _found(base: str, root: str, info: dict[str, Any], name: str | None = None) -> Entry:
    uri = base if name is None else base.rstrip("/") + name[len(root.rstrip("/")) :]
    # S3's names, then those of other file systems.
    modified = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(modified, (int, float)):
        modified = datetime.fromtimestamp(modified, UTC)
    elif not isinstance(modified, datetime):
        modified = None
    size = info.get("size", info.get("Size"))
    # Without an etag, time and size tell a changed object from an unchanged one.
    version = f"{modified.timestamp():.6f}-{size}" if modified else None
    etag = info.get("ETag") or info.get("etag") or version
    return Entry(storable(uri), size, str(etag).strip('"') if etag else None, modified)


_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


def _is_manifest(source: str) -> bool:
    return source.endswith(_MANIFESTS) and not _is_glob(source)


def _is_glob(source: str) -> bool:
    return any(letter in source for letter in _WILD)


def _glob_base(pattern: str) -> str:
    """The deepest folder above all that a glob can match."""
    first = min(pattern.find(letter) for letter in _WILD if letter in pattern)
    return pattern[:first].rpartition("/")[0]


_Page = Sequence[tuple[str, dict[str, Any]]]
"""Names without protocol, each with what the storage says of it."""


class _FolderPages:
    """Any file system: folder by folder."""

    def __init__(self, filesystem: Any, patience: Patience) -> None:
        self._filesystem = filesystem
        self._patience = patience

    def units(self, root: str) -> list[tuple[str, _Page | None]]:
        """What may be listed at the same time, in order: folders, and files as they are."""
        try:
            infos = self._list(root)
        except FileNotFoundError as error:
            raise ConfigError(root, "there is no such folder or file") from error
        return [
            (info["name"], None if info["type"] == "directory" else [(info["name"], info)]) for info in infos
        ]

    def pages(self, folder: str) -> Iterator[_Page]:
        infos = self._list(folder)
        yield [(info["name"], info) for info in infos if info["type"] != "directory"]
        for info in infos:
            if info["type"] == "directory":
                yield from self.pages(info["name"])

    def _list(self, folder: str) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = self._patience(lambda: self._filesystem.ls(folder, detail=True))
        # The listing is wanted once, and may be large.
        dircache = getattr(self._filesystem, "dircache", None)
        if dircache is not None:
            dircache.pop(folder, None)
        # A folder may list itself, as S3 does with a key that ends in a slash.
        return sorted((i for i in infos if i["name"].rstrip("/") != folder), key=lambda info: info["name"])


class _S3Pages:
    """S3: a thousand keys a page, whatever lies in one folder."""

    def __init__(self, filesystem: Any, patience: Patience) -> None:
        self._filesystem = filesystem
        self._patience = patience

    def units(self, root: str) -> list[tuple[str, _Page | None]]:
        """Prefixes two levels below ``root``, which are listed at the same time, and keys above them."""
        found: list[tuple[str, _Page | None]] = []
        for prefix, page in self._level(f"{root}/"):
            found += self._level(prefix) if page is None else [(prefix, page)]
        return sorted(found, key=lambda unit: unit[0])

    def pages(self, prefix: str) -> Iterator[_Page]:
        for answer in self._answers(prefix):
            yield self._keys(prefix, answer)

    def _level(self, prefix: str) -> Iterator[tuple[str, _Page | None]]:
        bucket = prefix.partition("/")[0]
        for answer in self._answers(prefix, Delimiter="/"):
            keys = self._keys(prefix, answer)
            yield from ((name, [(name, info)]) for name, info in keys)
            yield from ((f"{bucket}/{p['Prefix']}", None) for p in answer.get("CommonPrefixes", ()))

    def _keys(self, prefix: str, answer: dict[str, Any]) -> _Page:
        bucket = prefix.partition("/")[0]
        keys = answer.get("Contents", ())
        # A key that ends in a slash stands for a folder.
        return [(f"{bucket}/{key['Key']}", key) for key in keys if not key["Key"].endswith("/")]

    def _answers(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        bucket, _, key = prefix.partition("/")
        while True:
            call = functools.partial(
                self._filesystem.call_s3, "list_objects_v2", Bucket=bucket, Prefix=key, **options
            )
            answer: dict[str, Any] = self._patience(call)
            yield answer
            if not answer.get("IsTruncated"):
                return
            options = {**options, "ContinuationToken": answer["NextContinuationToken"]}


def _in_order(
    units: Sequence[tuple[str, _Page | None]], pages: Callable[[str], Iterator[_Page]], threads: int
) -> Iterator[_Page]:
    """All pages of all ``units`` in their order, while those ahead are being listed."""
    stopped = threading.Event()

    def fill(unit: str, pages_of_unit: queue.Queue[Any]) -> None:
        try:
            for page in pages(unit):
                _put(pages_of_unit, page, stopped)
            _put(pages_of_unit, None, stopped)
        except FILE_ERRORS as error:
            _put(pages_of_unit, error, stopped)

    waiting: deque[queue.Queue[Any]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="listing") as pool:
        try:
            remaining = iter(units)
            while True:
                # Tasks start in the order of units: whoever waits for a full queue is not waited for.
                for unit, page in itertools.islice(remaining, 2 * threads - len(waiting)):
                    pages_of_unit: queue.Queue[Any] = queue.Queue(maxsize=4)
                    waiting.append(pages_of_unit)
                    if page is None:
                        pool.submit(fill, unit, pages_of_unit)
                    else:
                        pages_of_unit.put(page)
                        pages_of_unit.put(None)
                if not waiting:
                    return
                while (page := waiting[0].get()) is not None:
                    if isinstance(page, Exception):
                        raise page
                    yield page
                waiting.popleft()
        finally:
            stopped.set()


def _put(pages: queue.Queue[Any], item: Any, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            pages.put(item, timeout=0.5)
        except queue.Full:
            continue
        return


# --------------------------------------------------------------------------- parts


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


def _paged(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page


def _digests(versions: Iterable[tuple[str, str | None]]) -> np.ndarray:
    """16 bytes for each (uri, etag)."""
    texts = (f"{uri}\n{etag or ''}".encode() for uri, etag in versions)
    digests = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="S16")


class _Seen:
    """Which digests were there before: sorted runs that are merged as they grow."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Take ``digests``; which of them are new, each once."""
        unique, first = np.unique(digests, return_index=True)
        known = np.zeros(len(unique), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            known |= run[places] == unique
        fresh = np.zeros(len(digests), bool)
        fresh[first[~known]] = True
        self._runs.append(unique[~known])
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) >= len(self._runs[-2]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        self._runs = [run for run in self._runs if len(run)]
        return fresh
