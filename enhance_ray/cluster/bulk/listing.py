"""What a job's input holds: a list of the user's, or all below a prefix, a page at a time and in order."""

from __future__ import annotations

import functools
import itertools
import json
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from enhance_ray import audio
from enhance_ray.audio import Patience, lists
from enhance_ray.audio.storage import FILE_ERRORS, explain
from enhance_ray.cluster.bulk.names import storable
from enhance_ray.cluster.bulk.seen import Seen, digests_of
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.errors import ConfigError

SHARD_EXTENSIONS = (".tar", ".parquet")
"""Objects that hold recordings: WebDataset's tar, and Parquet with a column "audio"."""

_WILD = "*?["
_MANIFESTS = (".parquet", *lists.TABLES)
_IGNORED = "manifest.parquet"  # beside shards, as `enhance-ray corpus pack` writes it
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


def entries(settings: BulkConfig) -> Iterator[Entry]:
    """The inputs of a job, in an order that depends on them alone.

    Raises:
        ConfigError: the input does not exist or is no manifest.
    """
    source = settings.input
    if is_manifest(source):
        yield from _manifest_entries(source)
        return
    avoided = storable(f"{settings.output.rstrip('/')}/")
    for entry in _listed_entries(source, settings.listing_threads):
        name = PurePosixPath(entry.uri).name
        is_input = audio.is_known(name) or (name.endswith(SHARD_EXTENSIONS) and name != _IGNORED)
        if is_input and not name.startswith(".") and not entry.uri.startswith(avoided):
            yield entry


def paged(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """``items`` in lists of ``size``, the last one perhaps shorter."""
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page


def _manifest_entries(path: str) -> Iterator[Entry]:
    seen = Seen()
    number = 0
    for page in paged(_rows(path), 1000):
        found = []
        for row in page:
            number += 1
            found.append(_entry(row, f"{path}: row {number}", is_stored=path.endswith(".parquet")))
        # A recording that is listed twice is one recording.
        yield from itertools.compress(found, seen.add(digests_of((entry.uri, entry.etag) for entry in found)))


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


def _listed_entries(source: str, threads: int) -> Iterator[Entry]:
    try:
        yield from _listed(source, threads)
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(source, f"cannot be listed: {explain(error)}") from error


def _listed(source: str, threads: int) -> Iterator[Entry]:
    has_pattern = is_glob(source)
    base = glob_base(source) if has_pattern else source.rstrip("/")
    filesystem, root = fsspec.url_to_fs(base)
    filesystem.invalidate_cache()
    patience = Patience(_PATIENCE)
    if not has_pattern and patience(lambda: filesystem.isfile(root)):
        yield _found(base, root, patience(lambda: filesystem.info(root)))
        return
    # A bucket's prefix exists if something is below it; that is seen when nothing was found.
    lister: _S3Pages | _FolderPages
    lister = (_S3Pages if hasattr(filesystem, "call_s3") else _FolderPages)(filesystem, patience)
    pattern = None
    if has_pattern:
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


def is_manifest(source: str) -> bool:
    """Whether an input is a table of inputs, or a shard."""
    return source.endswith(_MANIFESTS) and not is_glob(source)


def is_glob(source: str) -> bool:
    """Whether an input is a pattern."""
    return any(letter in source for letter in _WILD)


def glob_base(pattern: str) -> str:
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
