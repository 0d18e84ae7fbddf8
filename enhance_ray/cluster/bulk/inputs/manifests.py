"""Inputs that a table of the user's names: Parquet, CSV, JSON lines or a lakehouse's, of any length."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enhance_ray.audio import lists
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk.inputs import lakes
from enhance_ray.cluster.bulk.names import storable
from enhance_ray.cluster.bulk.state import MANIFEST
from enhance_ray.errors import ConfigError, explain

_PARQUET = ".parquet"
EXTENSIONS = (_PARQUET, *lists.TABLES)
_PAGE, _PARQUET_PAGE = 1000, 50_000
_TEXT = (pa.types.is_string, pa.types.is_large_string)
_KINDS = {
    "uri": _TEXT,
    "bytes": (pa.types.is_integer,),
    "etag": _TEXT,
    "last_modified": (pa.types.is_timestamp,),
    "output": _TEXT,
}
"""Columns that are taken as they are, and what they must be for that."""

_Page: TypeAlias = pa.Table | list[dict[str, Any]]


def pages(path: str) -> Iterator[pa.Table]:
    """Rows of the table at ``path``, as tables like the manifest's.

    Raises:
        ConfigError: it cannot be read, or a row of it names no input.
    """
    number = 0
    try:
        for page in _read(path):
            yield _like_manifest(page, path, number)
            number += len(page)
    except (ValueError, pa.ArrowException) as error:
        raise ConfigError(path, f"is no readable manifest: {explain(error)}") from error
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(path, f"cannot be read: {explain(error)}") from error


def _read(path: str) -> Iterator[_Page]:
    if lakes.is_lake(path):
        return lakes.tables(path)
    if path.endswith(_PARQUET):
        return _stored(path)
    return paged(lists.read_rows(path, MANIFEST.names), _PAGE)


def _stored(path: str) -> Iterator[_Page]:
    with fsspec.open(path, "rb") as file:
        table = pq.ParquetFile(file)
        if "uri" not in table.schema_arrow.names and "audio" in table.schema_arrow.names:
            yield [{"uri": path}]  # a shard, not a manifest
            return
        for batch in table.iter_batches(_PARQUET_PAGE):
            yield pa.Table.from_batches([batch])


def paged(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """``items`` in lists of ``size``, the last one perhaps shorter."""
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page


def _like_manifest(page: _Page, path: str, before: int) -> pa.Table:
    if isinstance(page, pa.Table) and _is_plain(page):
        columns = [
            page[field.name].cast(field.type)
            if field.name in page.column_names
            else pa.nulls(len(page), field.type)
            for field in MANIFEST
        ]
        return pa.table(columns, schema=MANIFEST)
    is_stored = isinstance(page, pa.Table)
    rows = page.to_pylist() if isinstance(page, pa.Table) else page
    return pa.Table.from_pylist(
        [row_of(row, f"{path}: row {before + n}", is_stored=is_stored) for n, row in enumerate(rows, 1)],
        MANIFEST,
    )


def _is_plain(page: pa.Table) -> bool:
    """Whether columns can be taken as they are, and need not be gone through row by row."""
    names = page.column_names
    if "uri" not in names or page["uri"].null_count:
        return False
    if not all(any(is_kind(page[name].type) for is_kind in _KINDS.get(name, ())) for name in names):
        return False
    # A version is told by its time where it has no etag.
    if "last_modified" in names and ("etag" not in names or page["etag"].null_count):
        return False
    texts = (page[name] for name in ("uri", "etag", "output") if name in names)
    return not any(pc.any(pc.equal(text, "")).as_py() for text in texts)


def row_of(row: Any, where: str, *, is_stored: bool = False) -> dict[str, Any]:
    """A row of the manifest, of one of the user's; what stands in Parquet, such as in records, is as tables
    hold it.

    Raises:
        ConfigError: it names no input, or a value is none of its column; it says ``where``.
    """
    if not isinstance(row, dict) or not isinstance(row.get("uri"), str) or not row["uri"]:
        raise ConfigError(where, 'expected a column "uri" with text in it')
    if not is_stored:
        row = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
    extra = {name: value for name, value in row.items() if name not in MANIFEST.names and value is not None}
    size = row.get("bytes")
    try:
        size = None if size in (None, "") else int(size)
        modified = row.get("last_modified") or None
        modified = datetime.fromisoformat(modified) if isinstance(modified, str) else modified
    except (ValueError, TypeError) as error:
        raise ConfigError(where, f"bytes must be a whole number, last_modified ISO 8601: {error}") from error
    return {
        "uri": row["uri"],
        "bytes": size,
        # Without one, the time tells a changed object from an unchanged one.
        "etag": row.get("etag") or (modified.isoformat() if modified else None),
        "last_modified": modified,
        "output": row.get("output") or None,
        "extra": json.dumps(extra, ensure_ascii=False, default=str, sort_keys=True) if extra else None,
    }
