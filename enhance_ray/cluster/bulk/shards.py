"""Recordings that are packed: WebDataset's tar, and Parquet with the recordings in the column "audio".

A shard in is a shard out: the same members in the same order, other files and columns as they were. It is
written when all of its recordings are done, so it is also what a lost actor has to do again.
"""

from __future__ import annotations

import contextlib
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from enhance_ray import audio
from enhance_ray.audio import Patience, is_remote, storage
from enhance_ray.audio.storage import FILE_ERRORS, open_input, write_error
from enhance_ray.cluster.bulk.inputs import SHARD_EXTENSIONS
from enhance_ray.errors import AudioReadError, explain
from enhance_ray.files import output_extension

AUDIO = "audio"
"""Column of a Parquet shard that holds recordings: bytes, or a struct of bytes and path."""

_NAMES = ("name", "file", "key", "__key__", "uri", "path")
_COPIED_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a tar, or one row of a Parquet shard, as a file of this machine."""

    name: str
    path: Path
    is_audio: bool
    group: int = 0
    """Row group of Parquet."""


def is_shard(uri: str) -> bool:
    """Whether a name says that it holds recordings."""
    return uri.endswith(SHARD_EXTENSIONS)


def unpack(uri: str, folder: Path, patience: Patience) -> Iterator[Member]:
    """The members of a shard, in order, each put into ``folder`` when it is asked for.

    Raises:
        AudioReadError: the shard cannot be read, or is none.
    """
    file = open_input(uri, patience)
    with contextlib.closing(file):
        try:
            file.seek(0)
            empty = True
            for member in (_unpack_tar if uri.endswith(".tar") else _unpack_parquet)(file, uri, folder):
                empty = empty and not member.is_audio
                yield member
            file.raise_error()
            if empty:
                raise AudioReadError(uri, "it holds no recordings")
        except (tarfile.TarError, pa.ArrowException, EOFError) as error:
            file.raise_error()
            raise AudioReadError(uri, f"it is no readable shard: {explain(error)}") from error


def _unpack_tar(file: Any, uri: str, folder: Path) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for number, info in enumerate(tar):
            if not info.isfile():
                continue
            path = folder / f"in-{number:06d}{PurePosixPath(info.name).suffix}"
            content = tar.extractfile(info)
            assert content is not None  # it is a file
            with path.open("wb") as copy:
                shutil.copyfileobj(content, copy, _COPIED_BYTES)
            if path.stat().st_size != info.size:
                raise AudioReadError(uri, f"it breaks off within {info.name}")
            yield Member(info.name, path, audio.is_known(info.name))


def _unpack_parquet(file: Any, uri: str, folder: Path) -> Iterator[Member]:
    table = pq.ParquetFile(pa.PythonFile(file, mode="r"))
    if AUDIO not in table.schema_arrow.names:
        raise AudioReadError(uri, f"it has no column '{AUDIO}'")
    named = next((name for name in _NAMES if name in table.schema_arrow.names), None)
    number = 0
    for group in range(table.num_row_groups):
        rows = table.read_row_group(group, [AUDIO, *([named] if named else [])]).to_pylist()
        for row in rows:
            content = row[AUDIO]["bytes"] if isinstance(row[AUDIO], dict) else row[AUDIO]
            name = str(row[named]) if named else f"row-{number:06d}"
            path = folder / f"in-{number:06d}{PurePosixPath(name).suffix}"
            path.write_bytes(content or b"")
            yield Member(name, path, True, group)
            number += 1


def output_path(member: Member, wanted: str) -> Path:
    """Where the output of a member goes, beside it: the name says the format, as for files."""
    extension = output_extension(member.name, wanted)
    return member.path.with_name(f"out-{member.path.stem}{extension}")


def pack(
    source: str, members: Iterable[tuple[Member, Path | None]], target: Path, patience: Patience
) -> None:
    """Write the shard ``target`` that is like ``source``, with other recordings.

    Args:
        source: the shard that the members come from.
        members: each with what takes its place; None for a recording that failed, which is left out of a tar
            and null in Parquet.
        target: on this machine.
        patience: with the storage of ``source``.
    """
    if source.endswith(".tar"):
        _pack_tar(members, target)
    else:
        file = open_input(source, patience)
        with contextlib.closing(file):
            _pack_parquet(pq.ParquetFile(pa.PythonFile(file, mode="r")), list(members), target)
        file.raise_error()


def _pack_tar(members: Iterable[tuple[Member, Path | None]], target: Path) -> None:
    used: set[str] = set()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, path in members:
            if path is None:
                continue
            name = member.name
            if member.is_audio:
                # A sample's files share what stands before the extension.
                name = str(PurePosixPath(name).with_suffix(path.suffix))
                name = member.name + path.suffix if name in used else name
            used.add(name)
            info = tarfile.TarInfo(name)  # no owner and no time: the same input gives the same bytes
            info.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(info, content)


def _pack_parquet(table: Any, members: list[tuple[Member, Path | None]], target: Path) -> None:
    by_group: dict[int, list[Path | None]] = {}
    for member, path in members:
        by_group.setdefault(member.group, []).append(path)
    schema = table.schema_arrow
    place = schema.get_field_index(AUDIO)
    kind = schema.field(place).type
    # Compressing compressed audio costs time and saves nothing.
    with pq.ParquetWriter(target, schema, compression="none") as writer:
        for group, paths in sorted(by_group.items()):
            rows = table.read_row_group(group)
            contents = [path.read_bytes() if path is not None else None for path in paths]
            if pa.types.is_struct(kind):
                old = rows.column(AUDIO).to_pylist()
                values: list[Any] = [
                    {**(before or {}), "bytes": content}
                    for before, content in zip(old, contents, strict=True)
                ]
            else:
                values = contents
            writer.write_table(rows.set_column(place, schema.field(place), pa.array(values, kind)))


def publish(path: Path, uri: str, patience: Patience) -> None:
    """Put a file of this machine at ``uri``, where it appears whole.

    Raises:
        AudioWriteError: it cannot be written.
    """
    try:
        if not is_remote(uri):
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        storage.publish(path, uri, patience)
    except FILE_ERRORS as error:
        raise write_error(uri, explain(error), error) from error
