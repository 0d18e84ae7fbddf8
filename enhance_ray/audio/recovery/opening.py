"""Which means suit a damaged file."""

from __future__ import annotations

import contextlib

from enhance_ray.audio.chunks import read_chunk_header
from enhance_ray.audio.decoding import decode, probe
from enhance_ray.audio.headers import end_of_id3
from enhance_ray.audio.recovery.bare import BareSalvage
from enhance_ray.audio.recovery.headless import HeadlessSalvage, UnindexedSalvage, find_media, has_index
from enhance_ray.audio.recovery.resumed import DecodedSalvage, ResumedSalvage
from enhance_ray.audio.recovery.salvage import Salvage
from enhance_ray.audio.storage import CallbackFile, open_input
from enhance_ray.errors import AudioReadError


def open_damaged(path: str, like: str | None = None) -> Salvage:
    """Open a damaged file for `Salvage.pieces`.

    Args:
        path: the file, local or at an fsspec URI.
        like: a whole recording of the same device, which describes what has lost its description.

    Raises:
        AudioReadError: nothing in it can be read, or it needs ``like``.
    """
    file = open_input(path)
    try:
        return _opened(file, path, like)
    except BaseException:
        file.close()
        raise


def _opened(file: CallbackFile, path: str, like: str | None) -> Salvage:
    if not file.seek(0, 2):
        raise AudioReadError(path, "it is empty (0 bytes)")
    file.seek(end_of_id3(file))
    head = file.read(16)
    if _is_mp4(file, head) and not has_index(file):
        if like is None:
            raise AudioReadError(
                path,
                "its index is missing",
                "--like, a whole file of the same device, says how it is read",
            )
        with contextlib.closing(open_input(like)) as described:
            return UnindexedSalvage(file, path, described, like)
    if _is_plain(file, path):
        file.close()
        return DecodedSalvage(decode(path, partial=True))
    if like is not None and probe(like).codec == "pcm":
        return HeadlessSalvage(file, path, probe(like))
    # A container may hold frames of mp3 in a row, too, between others of a picture.
    if head.startswith(_CONTAINERS) or head[4:8] == b"ftyp":
        return ResumedSalvage(file, path)
    try:
        return BareSalvage(file, path)
    except AudioReadError:
        return ResumedSalvage(file, path)


_CONTAINERS = (
    b"fLaC",
    b"OggS",
    b"RIFF",
    b"\x1a\x45\xdf\xa3",
    b"\x30\x26\xb2\x75",
    b"FLV",
    b"#!AMR",
    b"MAC ",
    b"wvpk",
)


def _is_mp4(file: CallbackFile, head: bytes) -> bool:
    known = (b"ftyp", b"mdat", b"wide", b"free", b"moov", b"skip")
    return head[4:8] in known and (head[4:8] == b"ftyp" or bool(find_media(file)))


def _is_plain(file: CallbackFile, path: str) -> bool:
    """Whether it is a wav or the like, whose header makes sense."""
    try:
        return read_chunk_header(file, path) is not None
    except AudioReadError:
        return False
