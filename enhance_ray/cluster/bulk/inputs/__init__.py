"""What a job's input holds, in tables with the columns of its manifest, in an order that depends on it alone.

listing      all below a prefix, or that a pattern matches
manifests    tables of the user's that name recordings
lakes        the same in the formats of a lakehouse
inventory    what S3 Inventory writes of a bucket
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from enhance_ray.audio import KNOWN_EXTENSIONS
from enhance_ray.cluster.bulk.inputs import inventory, lakes, listing, manifests
from enhance_ray.cluster.bulk.inputs.listing import glob_base, is_glob
from enhance_ray.cluster.bulk.names import storable

__all__ = ["SHARD_EXTENSIONS", "glob_base", "is_glob", "is_manifest", "pages", "version"]

SHARD_EXTENSIONS = (".tar", ".parquet")
"""Objects that hold recordings: WebDataset's tar, and Parquet with a column "audio"."""

_endings = "|".join(sorted(re.escape(ending) for ending in KNOWN_EXTENSIONS))
_shards = "|".join(map(re.escape, SHARD_EXTENSIONS))
# In RE2, which Arrow has. What is hidden is an output that is being written.
_RECORDING = rf"(?s)(?:^|/)[^/.][^/]*(?:(?i:{_endings})|{_shards})$"
_IGNORED = "(?:^|/)manifest[.]parquet$"  # beside shards, as `enhance-ray corpus pack` writes it


def pages(
    source: str, *, output: str | None = None, threads: int = 16, after: str | None = None
) -> Iterator[pa.Table]:
    """The recordings in ``source``. One that is listed twice comes twice.

    Args:
        source: as `BulkConfig.input`.
        output: what lies below it is no input.
        threads: folders that are listed at the same time.
        after: the last recording that is known. A prefix is listed from there on; a table of recordings is
            read from its start all the same.

    Raises:
        ConfigError: the input does not exist, cannot be read, or is no manifest.
    """
    if is_manifest(source) and not is_inventory(source):
        yield from manifests.pages(source)
        return
    found = inventory.pages(source) if is_inventory(source) else listing.pages(source, threads, after)
    for page in found:
        uris = page["uri"]
        wanted = pc.and_not(
            pc.match_substring_regex(uris, _RECORDING), pc.match_substring_regex(uris, _IGNORED)
        )
        if output is not None:
            wanted = pc.and_not(wanted, pc.starts_with(uris, storable(f"{output.rstrip('/')}/")))
        yield page.filter(wanted)


def version(source: str) -> str | None:
    """A text that changes when the recordings in ``source`` do; None where only listing them can tell."""
    return inventory.version(source) if is_inventory(source) else None


def is_manifest(source: str) -> bool:
    """Whether an input names others, or is a shard."""
    return (
        is_inventory(source)
        or lakes.is_lake(source)
        or (source.endswith(manifests.EXTENSIONS) and not is_glob(source))
    )


def is_inventory(source: str) -> bool:
    """Whether an input is what S3 Inventory writes."""
    return PurePosixPath(source).name == inventory.NAME
