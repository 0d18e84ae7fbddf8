"""Small files on any storage: how jobs remember."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from enhance_ray.audio import Patience, is_remote
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.errors import ConfigError, explain

_READERS = 16
STORAGE_PATIENCE = 120.0
"""Seconds for which a storage that fails is asked again."""


class Folder:
    """Small files below a path or URI, each written whole, by a storage that may fail for a while."""

    def __init__(self, uri: str, patience: float = STORAGE_PATIENCE) -> None:
        """Name it; nothing is read or made yet.

        Raises:
            ConfigError: no file system is known for the URI.
        """
        self.uri = uri.rstrip("/")
        try:
            self._filesystem, root = fsspec.url_to_fs(self.uri)
        except FILE_ERRORS as error:
            raise ConfigError(uri, f"cannot be used: {explain(error)}") from error
        self._root = root.rstrip("/")
        self._patience = Patience(patience)

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        data: bytes = self._patience(lambda: self._filesystem.cat_file(f"{self._root}/{name}"))
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put a file there at once; an older one is replaced."""
        path = f"{self._root}/{name}"
        if is_remote(self.uri):
            self._patience(lambda: self._filesystem.pipe_file(path, data))
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(f"{path}.{secrets.token_hex(4)}.part")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in ``folder``, sorted; none if it does not exist."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The same with their bytes, in any order."""
        path = f"{self._root}/{folder}".rstrip("/")

        def listed() -> list[dict[str, Any]]:
            self._filesystem.invalidate_cache()
            try:
                found: list[dict[str, Any]] = self._filesystem.ls(path, detail=True)
            except FileNotFoundError:
                return []
            return found

        # An empty folder that a storage keeps lists itself.
        infos = [info for info in self._patience(listed) if info["name"].rstrip("/") != path]
        sizes = {PurePosixPath(info["name"]).name: info["size"] or 0 for info in infos}
        return {name: size for name, size in sizes.items() if not name.endswith(".part")}

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

        def delete() -> None:
            try:
                self._filesystem.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

        self._patience(delete)

    def exists(self, name: str) -> bool:
        """Whether a file is there."""

        def look() -> bool:
            self._filesystem.invalidate_cache()
            return bool(self._filesystem.exists(f"{self._root}/{name}"))

        return self._patience(look)

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or these columns of it."""
        return _table(self.read(name), columns)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue().to_pybytes())

    def read_tables(
        self, names: Iterable[str], columns: Sequence[str] | None = None
    ) -> Generator[pa.Table, None, None]:
        """Several, in order, of which a few are read ahead."""
        with ThreadPoolExecutor(_READERS) as pool:
            waiting: deque[Future[bytes]] = deque()
            for name in names:
                waiting.append(pool.submit(self.read, name))
                if len(waiting) > 2 * _READERS:
                    yield _table(waiting.popleft().result(), columns)
            while waiting:
                yield _table(waiting.popleft().result(), columns)


def _table(data: bytes, columns: Sequence[str] | None) -> pa.Table:
    # A quarter of the time of `pq.read_table`, which is made for many large files. `read_tables` calls it
    # in one thread, since Arrow keeps memory for each thread that ever decoded.
    return pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)
