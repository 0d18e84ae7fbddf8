"""All recordings below a prefix or that a pattern matches, a page at a time and in order."""

from __future__ import annotations

import functools
import itertools
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.utils import glob_translate

from enhance_ray.audio import Patience
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk.names import path_of, storable
from enhance_ray.cluster.bulk.state import MANIFEST
from enhance_ray.errors import ConfigError, explain

_WILD = "*?["
_PATIENCE = 120.0


def pages(source: str, threads: int, after: str | None = None) -> Iterator[pa.Table]:
    """Everything that is there, recording or not, as tables like the manifest's.

    Args:
        source: a prefix or folder, a pattern, or one file.
        threads: folders that are listed at the same time.
        after: the last input that is known: S3 lists from behind it, other storages from the folder at the
            top that holds it.

    Raises:
        ConfigError: it does not exist or cannot be listed.
    """
    try:
        for page in _listed(source, threads, after):
            yield pa.Table.from_pylist(page, MANIFEST)
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(source, f"cannot be listed: {explain(error)}") from error


def _listed(source: str, threads: int, after: str | None) -> Iterator[list[dict[str, Any]]]:
    has_pattern = is_glob(source)
    base = glob_base(source) if has_pattern else source.rstrip("/")
    filesystem, root = fsspec.url_to_fs(base)
    filesystem.invalidate_cache()
    patience = Patience(_PATIENCE)
    if not has_pattern and patience(lambda: filesystem.isfile(root)):
        yield [_found(base, root, patience(lambda: filesystem.info(root)))]
        return
    root = root.rstrip("/")
    last = root + path_of(after)[len(base.rstrip("/")) :] if after else ""
    # A bucket's prefix exists if something is below it; that is seen when nothing was found.
    lister: _S3Pages | _FolderPages
    lister = (_S3Pages if hasattr(filesystem, "call_s3") else _FolderPages)(filesystem, patience, last)
    pattern = None
    if has_pattern:
        protocol_free = fsspec.core.strip_protocol(source)
        pattern = re.compile(glob_translate(protocol_free if isinstance(protocol_free, str) else source))
    for page in _in_order(lister.units(root), lister.pages, threads):
        yield [
            _found(base, root, info, name) for name, info in page if pattern is None or pattern.match(name)
        ]


def _found(base: str, root: str, info: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """A row of the manifest."""
    uri = base if name is None else base.rstrip("/") + name[len(root) :]
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
    etag = str(etag).strip('"') if etag else None
    return {"uri": storable(uri), "bytes": size, "etag": etag, "last_modified": modified}


_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


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

    def __init__(self, filesystem: Any, patience: Patience, after: str) -> None:
        self._filesystem = filesystem
        self._patience = patience
        self._after = after

    def units(self, root: str) -> list[tuple[str, _Page | None]]:
        """What may be listed at the same time, in order: folders, and files as they are; from the one on that
        holds ``after``."""
        first = root + "/" + self._after[len(root) + 1 :].partition("/")[0] if self._after else ""
        try:
            infos = self._list(root)
        except FileNotFoundError as error:
            raise ConfigError(root, "there is no such folder or file") from error
        return [
            (info["name"], None if info["type"] == "directory" else [(info["name"], info)])
            for info in infos
            if info["name"].rstrip("/") >= first
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

    def __init__(self, filesystem: Any, patience: Patience, after: str) -> None:
        self._filesystem = filesystem
        self._patience = patience
        self._after = after

    def units(self, root: str) -> list[tuple[str, _Page | None]]:
        """Prefixes two levels below ``root``, which are listed at the same time, and keys above them; without
        those before ``after``."""
        found: list[tuple[str, _Page | None]] = []
        for prefix, page in self._level(f"{root}/"):
            found += self._level(prefix) if page is None else [(prefix, page)]
        return sorted(found, key=lambda unit: unit[0])

    def pages(self, prefix: str) -> Iterator[_Page]:
        key = self._after.partition("/")[2]
        options = {"StartAfter": key} if self._after.startswith(prefix) else {}
        for answer in self._answers(prefix, **options):
            yield self._keys(prefix, answer)

    def _level(self, prefix: str) -> Iterator[tuple[str, _Page | None]]:
        bucket = prefix.partition("/")[0]
        for answer in self._answers(prefix, Delimiter="/"):
            keys = self._keys(prefix, answer)
            yield from ((name, [(name, info)]) for name, info in keys if name > self._after)
            prefixes = (f"{bucket}/{p['Prefix']}" for p in answer.get("CommonPrefixes", ()))
            # By their bytes, names are in order: what is before, and not around, is so with all it holds.
            yield from (
                (name, None) for name in prefixes if name > self._after or self._after.startswith(name)
            )

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
