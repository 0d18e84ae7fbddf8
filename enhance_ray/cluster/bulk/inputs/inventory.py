"""Inputs that S3 Inventory lists: all objects of a bucket, as S3 itself writes them to files now and then.

A hundred million objects take a hundred thousand requests to list, and a few hundred such files to read.
The lists' place and columns: Amazon S3 user guide, "Locating your inventory list" and "Amazon S3 Inventory".
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.orc
import pyarrow.parquet as pq

from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk.state import MANIFEST
from enhance_ray.errors import ConfigError, explain

NAME = "manifest.json"
"""Of what says where an inventory's files are."""

_PAGE = 50_000
_MILLISECONDS = pa.timestamp("ms", tz="UTC")


def pages(manifest: str) -> Iterator[pa.Table]:
    """The current objects of an inventory, recordings or not, as tables like the job's manifest.

    Args:
        manifest: path or URI of a `manifest.json` that S3 wrote. Its files are in the bucket that it names;
            of a copy that is not on S3, in the folder ``data`` beside the manifest's.

    Raises:
        ConfigError: the manifest is none, or a file of it cannot be read.
    """
    where = manifest
    try:
        with fsspec.open(manifest, "rb") as file:
            tree = json.load(file)
        form, schema, files = tree["fileFormat"].upper(), tree["fileSchema"], tree["files"]
        read = {"CSV": _csv, "ORC": _orc, "PARQUET": _parquet}[form]
        for entry in files:
            where = _place(manifest, tree, entry["key"])
            with fsspec.open(where, "rb") as file:
                for page in read(file, schema):
                    yield _like_manifest(page, is_encoded=form == "CSV")
    except (KeyError, TypeError, AttributeError, ValueError, pa.ArrowException) as error:
        raise ConfigError(where, f"is no inventory of S3: {explain(error)}") from error
    except FILE_ERRORS as error:
        raise ConfigError(where, f"cannot be read: {explain(error)}") from error


def version(manifest: str) -> str | None:
    """A digest of ``manifest``, which changes when the inventory does: it has the checksums of all its files.

    None where it cannot be read; `pages` then says why.
    """
    try:
        with fsspec.open(manifest, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FILE_ERRORS:
        return None


def _place(manifest: str, tree: dict[str, Any], key: str) -> str:
    if manifest.startswith(("s3://", "s3a://")):
        return f"{manifest.partition('://')[0]}://{tree['destinationBucket'].rpartition(':')[2]}/{key}"
    folder = manifest.rpartition("/")[0].rpartition("/")[0]
    return f"{folder}/data/{PurePosixPath(key).name}"


def _csv(file: Any, schema: str) -> Iterator[pa.Table]:
    names = [name.strip() for name in schema.split(",")]
    with pa.input_stream(file, compression="gzip") as text:
        reader = pyarrow.csv.open_csv(
            text,
            pyarrow.csv.ReadOptions(column_names=names),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _orc(file: Any, schema: str) -> Iterator[pa.Table]:
    table = pyarrow.orc.ORCFile(file)
    for stripe in range(table.nstripes):
        yield pa.Table.from_batches([table.read_stripe(stripe)])


def _parquet(file: Any, schema: str) -> Iterator[pa.Table]:
    for batch in pq.ParquetFile(file).iter_batches(_PAGE):
        yield pa.Table.from_batches([batch])


def _like_manifest(page: pa.Table, *, is_encoded: bool) -> pa.Table:
    """CSV has keys URL-encoded and everything as text; the other formats have neither."""
    # IsLatest in CSV is is_latest in the others.
    page = page.rename_columns([name.replace("_", "").lower() for name in page.column_names])

    def column(name: str, kind: pa.DataType) -> Any:
        if name not in page.column_names:
            return pa.nulls(len(page), kind)
        values = page[name]
        if pa.types.is_string(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
        return values.cast(kind)

    # Of a bucket with versions, what is there now.
    is_current = pc.fill_null(column("islatest", pa.bool_()), True)
    page = page.filter(pc.and_not(is_current, pc.fill_null(column("isdeletemarker", pa.bool_()), False)))
    keys = page["key"]
    if is_encoded:
        keys = pa.array(map(urllib.parse.unquote_plus, keys.to_pylist()), pa.string())
    modified = column("lastmodifieddate", _MILLISECONDS)
    etag = column("etag", pa.string())
    if etag.null_count:
        etag = pc.coalesce(etag, pc.strftime(modified, "%Y-%m-%dT%H:%M:%S+00:00"))
    table = pa.table(
        {
            "uri": pc.binary_join_element_wise(pa.scalar("s3:/"), page["bucket"], keys, "/"),
            "bytes": column("size", pa.int64()),
            "etag": etag,
            "last_modified": modified,
            "output": pa.nulls(len(page), pa.string()),
            "extra": pa.nulls(len(page), pa.string()),
        }
    )
    return table.filter(pc.invert(pc.ends_with(table["uri"], "/"))).cast(MANIFEST)
