"""What a corpus consists of: recordings in folders, in lists and in packed shards, on disk or behind URIs.

An entry of a corpus is one of

    folder           searched for audio files and for shards; with a manifest.parquet in it, that decides
    .csv, .jsonl     a list: file (or uri) and, if they are there, split and speaker
    .parquet         the same as a table; or a shard, if it holds the recordings themselves (column "audio")
    .tar             a shard as WebDataset has them: audio files one after the other, not compressed

A shard's recordings are addressed by where they lie in it, so that one of them costs one ranged read.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec

from enhance_ray import audio
from enhance_ray.audio import is_remote, lists
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.errors import AudioReadError, ConfigError, explain
from enhance_ray.training.splits import Split, held_out

MANIFEST_NAME = "manifest.parquet"
_LISTS = (*lists.TABLES, ".parquet")
_COLUMNS = ("file", "uri", "split", "speaker", "offset", "size")


@dataclass(frozen=True, slots=True)
class Source:
    """A recording of a corpus before it is decoded."""

    path: str
    """The file it is, or the shard that holds it."""
    group: str = ""
    """Who speaks, where the list says so; clips of one group may follow each other in an example."""
    place: tuple[int, int] | None = None
    """Where in its shard: (first byte, bytes) of a .tar, (row group, row) of a .parquet."""

    @property
    def name(self) -> str:
        """For messages and caches."""
        return self.path if self.place is None else f"{self.path}#{self.place[0]}+{self.place[1]}"

    def content(self) -> bytes | None:
        """The bytes of a recording in a shard; None for a file of its own.

        Raises:
            AudioReadError: the shard cannot be read there.
        """
        if self.place is None:
            return None
        first, second = self.place
        try:
            if self.path.endswith(".parquet"):
                rows = _row_group(self.path, first)
                return bytes(rows[second].as_py())
            filesystem, path = fsspec.url_to_fs(self.path)
            data: bytes = filesystem.cat_file(path, start=first, end=first + second)
        except FILE_ERRORS as error:
            raise AudioReadError(self.name, f"its shard cannot be read: {explain(error)}") from error
        if len(data) != second:
            raise AudioReadError(self.name, f"its shard ends after {len(data)} of {second} bytes")
        return data


_Found = tuple[Source, str, str | None]
"""A recording, the name by which it is held out or not, and the split where a list says so."""


def join(root: str, entry: str) -> str:
    """``entry`` as it is, if it is absolute or a URI; otherwise below ``root``."""
    if is_remote(entry) or entry.startswith("/"):
        return entry
    return root.rstrip("/") if entry in ("", ".") else f"{root.rstrip('/')}/{entry}"


def list_sources(
    root: str,
    entries: Sequence[str],
    split: Split | None,
    held_out_every: int,
    train_speakers: Sequence[str] = (),
) -> list[Source]:
    """The recordings of ``split`` in ``entries``, in the order of their names.

    Args:
        root: what entries are relative to: a folder or an fsspec URI.
        entries: see the module. Where a list names no split, and in folders, `splits.held_out` decides by
            name what is validation.
        split: which part; None for all.
        held_out_every: one in so many files is validation where nothing else says so.
        train_speakers: who belongs to training, whatever a list says.

    Raises:
        ConfigError: an entry does not exist, cannot be read or holds nothing.
    """
    found: list[Source] = []
    for entry in entries:
        for source, name, of in _list(join(root, entry)):
            side = of or ("valid" if held_out(name, held_out_every) else "train")
            if source.group in train_speakers:
                side = "train"
            if split is None or side == split:
                found.append(source)
    if not found:
        wanted = f"{split} recordings" if split else "recordings"
        raise ConfigError(", ".join(join(root, entry) for entry in entries), f"no {wanted} found")
    return sorted(found, key=lambda source: (source.path, source.place or (0, 0)))


def _list(path: str) -> Iterator[_Found]:
    if path.endswith(_LISTS):
        yield from _list_table(path)
    elif path.endswith(".tar"):
        yield from _list_tar(path)
    else:
        yield from _list_folder(path)


def _list_folder(path: str) -> Iterator[_Found]:
    try:
        filesystem, root = fsspec.url_to_fs(path)
        if not filesystem.isdir(root):
            raise ConfigError(path, "there is no such folder, and it is no .csv, .jsonl, .parquet or .tar")
        manifest = f"{path.rstrip('/')}/{MANIFEST_NAME}"
        if filesystem.exists(f"{root.rstrip('/')}/{MANIFEST_NAME}"):
            yield from _list_table(manifest)
            return
        names = sorted(filesystem.find(root))
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(path, f"cannot be listed: {explain(error)}") from error
    prefix = path.rstrip("/")
    for name in names:
        full = prefix + name[len(root.rstrip("/")) :]
        if PurePosixPath(name).name.startswith("."):
            continue
        if name.endswith(".tar"):
            yield from _list_tar(full)
        elif name.endswith(".parquet"):
            yield from _list_table(full)
        elif audio.is_known(name):
            yield Source(full), full, None


def _list_tar(path: str) -> Iterator[_Found]:
    try:
        with fsspec.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile() and audio.is_known(member.name):
                    yield Source(path, place=(member.offset_data, member.size)), member.name, None
    except (tarfile.TarError, OSError) as error:
        raise ConfigError(path, f"is no readable .tar: {explain(error)}") from error


def _list_table(path: str) -> Iterator[_Found]:
    base = path.rpartition("/")[0] or "."
    for number, row in enumerate(_rows(path)):
        name = row.get("name") or row.get("file") or row.get("uri")
        split = row.get("split") or None
        if split not in (None, "train", "valid"):
            continue  # a corpus may have more parts than training uses
        if "place" in row:
            source = Source(path, row.get("speaker") or "", row["place"])
            yield source, str(name or source.name), split
            continue
        file = row.get("file") or row.get("uri")
        if not file:
            raise ConfigError(path, f"row {number + 1} has neither 'file' nor 'uri'")
        yield Source(join(base, str(file)), row.get("speaker") or "", _place(row)), str(name), split


def _place(row: Mapping[str, Any]) -> tuple[int, int] | None:
    for first, second in (("offset", "size"), ("row_group", "row")):
        if row.get(first) is not None and row.get(second) is not None:
            return int(row[first]), int(row[second])
    return None


def _rows(path: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a list; those of a shard of Parquet with their "place"."""
    try:
        if path.endswith(".parquet"):
            yield from _parquet_rows(path)
            return
        for number, row in enumerate(lists.read_rows(path, _COLUMNS)):
            if number == 0 and not {"file", "uri"} & row.keys():
                raise ConfigError(path, "expected a column 'file' or 'uri', and perhaps split and speaker")
            yield row
    except (ConfigError, GeneratorExit):
        raise
    except FILE_ERRORS as error:
        raise ConfigError(path, f"cannot be read: {explain(error)}") from error


def _parquet_rows(path: str) -> Iterator[Mapping[str, Any]]:
    pq = parquet()
    with fsspec.open(path, "rb") as file:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        packed = "audio" in names
        wanted = [name for name in names if name != "audio"]
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, wanted).to_pylist() if wanted else []
            for number in range(table.metadata.row_group(group).num_rows):
                row = rows[number] if rows else {}
                yield {**row, "place": (group, number)} if packed else row


@lru_cache(maxsize=8)
def _row_group(path: str, group: int) -> Any:
    """The recordings of one row group, which neighbours share."""
    pq = parquet()
    with fsspec.open(path, "rb") as file:
        column = pq.ParquetFile(file).read_row_group(group, ["audio"]).column("audio")
    # Hugging Face's way of storing a file: a struct of its bytes and its path.
    return [value["bytes"] for value in column] if column.type.num_fields else column


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError("Parquet", "needs pyarrow: pip install 'enhance-ray[train]'") from error
    return pyarrow.parquet
